import type { WebSocket } from 'ws';
import type { z } from 'zod';
import { desiredBucket } from '../../../agents/contract/desired.ts';
import { fromAgentSchema, type Task, type ToAgent } from '../../../agents/contract/wire.ts';
import { type FeedMessage, openFeed } from '../../../changefeed/feeds/feed.ts';
import type { Change } from '../../../changefeed/types.ts';
import { messageOf } from '../../../runtime/errors.ts';
import { gauge, timer } from '../../../runtime/metrics.ts';
import type { ServiceContext } from '../../common/service.ts';
import type { Liveness } from '../liveness/liveness.ts';
import { tasksBucket } from '../models/buckets.ts';
import { isOver, type TaskRecord } from '../models/task.ts';
import { serverParams } from './servers.ts';

const agentsNow = gauge('conger_cnapi_agents', 'agents connected to this instance');
const toldSeconds = timer(
  'conger_cnapi_told_seconds',
  'from a change’s commit until it was sent to an agent',
);

const pingMs = 4_000;
const deafMs = 10_000;
/** Close codes of RFC 6455. */
const POLICY_VIOLATION = 1008;
const TRY_AGAIN_LATER = 1013;

/**
 * The websocket `/servers/:uuid/agent` (agents/contract/wire.ts): any instance tells any node its desired state,
 * whole at first and then change by change, and its open tasks. An agent that does not keep up, or is silent for
 * 10 s, is cut off; it connects again, to any instance, and is told everything anew.
 */
export function agentRoutes(context: ServiceContext, liveness: Liveness): void {
  const { app, log } = context;
  app.get(
    '/servers/:uuid/agent',
    { websocket: true, schema: { params: serverParams, hide: true } },
    (socket, request) => {
      const { uuid } = request.params as z.output<typeof serverParams>;
      serveAgent(context, liveness, socket, uuid).catch((error: unknown) => {
        log.warn({ err: error, server: uuid }, `agent cut off: ${messageOf(error)}`);
        socket.close(TRY_AGAIN_LATER, messageOf(error).slice(0, 100));
      });
    },
  );
}

async function serveAgent(
  context: ServiceContext,
  liveness: Liveness,
  socket: WebSocket,
  server: string,
): Promise<void> {
  const { log } = context;
  agentsNow.inc();
  let session: string | undefined;
  const feed = openFeed<ToAgent, ToAgent>({
    broadcast: context.broadcast,
    snapshot: () => snapshotOf(context, server),
    select: (change) => select(change, server),
    send: (message) => send(socket, message),
  });
  const unping = keepHearing(socket);
  socket.on('message', (data) => {
    const message = fromAgentSchema.safeParse(parseJson(String(data)));
    if (!message.success) return socket.close(POLICY_VIOLATION, 'not a message that CNAPI knows');
    if (message.data.type !== 'applied' || message.data.failed.length === 0) return;
    log.warn({ server, failed: message.data.failed }, 'the node cannot apply everything');
  });
  socket.on('error', (error) => log.info({ err: error, server }, 'agent connection failed'));
  const gone = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  try {
    session = await liveness.connected(server);
    await Promise.race([gone, feed.done]);
  } finally {
    feed.close();
    unping();
    agentsNow.dec();
    if (session !== undefined) liveness.lost(server, session);
    socket.close(TRY_AGAIN_LATER, 'connect again');
  }
}

async function snapshotOf({ kv, broadcast }: ServiceContext, server: string) {
  // The tasks are read later than the objects: a change in between is told again, and an agent knows what it has done.
  const desired = await kv.find<unknown>(desiredBucket.name, `(span=${server})`, { noLimit: true });
  const tasks = await kv.find<TaskRecord>(tasksBucket.name, `(&(server_uuid=${server})(status=active))`, {
    noLimit: true,
  });
  const positions = Array.from({ length: broadcast.partitions }, (_, partition) =>
    broadcast.position(partition),
  );
  const snapshot: ToAgent = {
    type: 'snapshot',
    v: 1,
    position: positions.sort().at(-1) ?? '',
    // Unread: what this instance cannot read is not absent (agents/contract/wire.ts).
    objects: desired.objects.map(({ value }) => value),
    tasks: tasks.objects.map(({ value }) => presentTask(value)),
  };
  return { items: [snapshot], found: desired };
}

/** What a change is to a node: an object that is now, or no longer, in its span; a task that waits for it. */
function select(change: Change, server: string): ToAgent | undefined {
  const { bucket, key, position, requestId } = change;
  if (bucket === desiredBucket.name) {
    if (concerns(change.value, server)) {
      toldSeconds.observe(Math.max(0, Date.now() - change.time) / 1000);
      return { type: 'put', position, requestId, object: change.value };
    }
    return concerns(change.previous, server) ? { type: 'delete', position, requestId, key } : undefined;
  }
  if (bucket === tasksBucket.name) {
    const task = change.value as TaskRecord | null;
    if (task === null || task.server_uuid !== server || isOver(task)) return undefined;
    return { type: 'task', position, task: presentTask(task) };
  }
  return undefined;
}

/** Whether the desired object, of which no more is read than this, is one of the node's. */
function concerns(object: unknown, server: string): boolean {
  const span = (object as { span?: unknown } | null)?.span;
  return Array.isArray(span) && span.includes(server);
}

function presentTask({ id, task, server_uuid, req_id, params }: TaskRecord): Task {
  return { id, task, server_uuid, req_id, params };
}

async function send(socket: WebSocket, message: FeedMessage<ToAgent, ToAgent>): Promise<boolean> {
  if (message.type === 'bookmark') return true;
  if (message.type === 'end') {
    socket.close(TRY_AGAIN_LATER, message.error.message.slice(0, 100));
    return false;
  }
  for (const each of message.type === 'snapshot' ? message.items : [message.event]) {
    await new Promise<void>((resolve, reject) => {
      socket.send(JSON.stringify(each), (error) => (error ? reject(error) : resolve()));
    });
  }
  return true;
}

/** Pings, and ends a connection that has been silent for too long. Answers the function that stops it. */
function keepHearing(socket: WebSocket): () => void {
  let heard = Date.now();
  const hear = () => {
    heard = Date.now();
  };
  socket.on('pong', hear);
  socket.on('message', hear);
  const timer = setInterval(() => {
    if (Date.now() - heard > deafMs) socket.terminate();
    else socket.ping();
  }, pingMs);
  return () => clearInterval(timer);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
