import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { WaitTimeoutError } from '../../../changefeed/broadcast.ts';
import { CongerError, isCongerError } from '../../../runtime/errors.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { updateObject } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { statusBucket, tasksBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';
import { isOver, type TaskEvent, type TaskRecord } from '../models/task.ts';
import { readServer, serverParams } from './servers.ts';

const taskParams = z.object({ id: z.string().min(1).max(64) });
const waitSchema = z.strictObject({
  timeout: z.coerce.number().int().min(1).max(3600).default(3600).describe('seconds'),
});
const resultSchema = z.discriminatedUnion('status', [
  z.strictObject({ status: z.literal('complete'), result: z.record(z.string(), z.unknown()).default({}) }),
  z.strictObject({ status: z.literal('failure'), error: z.looseObject({ message: z.string() }) }),
]);
const historyLength = 100;

/**
 * Tasks for the nodes' agents. A task is an object in the KV tier: whichever instance creates it, every instance's
 * node feed tells it, every instance can wait for it, and the agent's result goes to any.
 */
export function taskRoutes(context: ServiceContext): void {
  const { app, kv, broadcast, shutdown } = context;

  app.post(
    '/servers/:uuid/nop',
    { schema: { params: serverParams, body: z.record(z.string(), z.unknown()).default({}) } },
    async (request) => {
      const { uuid } = request.params;
      await readServer(context, uuid);
      const status = await kv.tryGet<StatusRecord>(statusBucket.name, uuid);
      if (status?.value.status !== 'running')
        throw new CongerError('ServerNotRunning', 'Operation attempted on server which is not running');
      return { id: await createTask(context, 'nop', request, uuid, request.body) };
    },
  );

  app.get('/servers/:uuid/task-history', { schema: { params: serverParams } }, async (request) => {
    await readServer(context, request.params.uuid);
    const found = await kv.find<TaskRecord>(tasksBucket.name, `(server_uuid=${request.params.uuid})`, {
      limit: historyLength,
      sort: { attribute: 'timestamp', order: 'DESC' },
    });
    return found.objects.map((object) => object.value);
  });

  app.get('/tasks/:id', { schema: { params: taskParams } }, async (request) =>
    readTask(context, request.params.id),
  );

  app.get('/tasks/:id/wait', { schema: { params: taskParams, querystring: waitSchema } }, async (request) => {
    const { id } = request.params;
    const gone = new AbortController();
    const leave = () => gone.abort();
    const { socket } = request.raw;
    socket.once('close', leave);
    const ended = AbortSignal.any([shutdown.signal, gone.signal]);
    try {
      return await broadcast.waitFor(
        { bucket: tasksBucket.name, key: id, timeoutMs: request.query.timeout * 1000, signal: ended },
        async () => {
          const task = await readTask(context, id);
          return isOver(task) ? task : undefined;
        },
      );
    } catch (error) {
      // As in Triton: the time is over, and the answer is the task as it stands.
      if (error instanceof WaitTimeoutError) return readTask(context, id);
      if (ended.aborted)
        throw new CongerError('ServiceUnavailable', 'this instance is shutting down; ask another', {
          cause: error,
        });
      throw error;
    } finally {
      socket.off('close', leave);
    }
  });

  app.post(
    '/tasks/:id/result',
    { schema: { params: taskParams, body: resultSchema } },
    async (request, reply) => {
      const outcome = request.body;
      const event: TaskEvent =
        outcome.status === 'complete'
          ? { name: 'finish', timestamp: new Date().toISOString(), event: outcome.result }
          : { name: 'error', timestamp: new Date().toISOString(), event: { error: outcome.error } };
      await updateObject<TaskRecord>(kv, tasksBucket.name, request.params.id, (task) => {
        if (task === undefined) throw noTask();
        // The first result stands: an agent that is not sure tells it again.
        if (isOver(task.value)) return undefined;
        return { ...task.value, status: outcome.status, history: [...task.value.history, event] };
      });
      return reply.code(204).send();
    },
  );
}

/** Writes a task down once for a request, and answers its id. */
export async function createTask(
  { kv }: Pick<ServiceContext, 'kv'>,
  task: string,
  request: FastifyRequest,
  serverUuid: string,
  params: Record<string, unknown>,
): Promise<string> {
  const id = derivedUuid('cnapi task', task, serverUuid, requestKey(request));
  const record: TaskRecord = {
    id,
    req_id: request.id,
    server_uuid: serverUuid,
    task,
    params,
    status: 'active',
    timestamp: new Date().toISOString(),
    history: [],
  };
  try {
    await kv.put(tasksBucket.name, id, record, { etag: null });
  } catch (error) {
    if (!isCongerError(error, 'EtagConflictError')) throw error;
  }
  return id;
}

async function readTask({ kv }: ServiceContext, id: string): Promise<TaskRecord> {
  const task = await kv.tryGet<TaskRecord>(tasksBucket.name, id);
  if (task === undefined) throw noTask();
  return task.value;
}

function noTask(): CongerError {
  return new CongerError('ResourceNotFound', 'no such task found');
}
