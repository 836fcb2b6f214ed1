import type { ServerResponse } from 'node:http';
import type { Writable } from 'node:stream';
import websocket from '@fastify/websocket';
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { WebSocket } from 'ws';
import { z } from 'zod';
import type { Kv } from '../../kvstore/types.ts';
import { CongerError, isCongerError, messageOf } from '../../runtime/errors.ts';
import { gauge } from '../../runtime/metrics.ts';
import { type Broadcast, ending } from '../broadcast.ts';
import type { CatchUp } from './catch-up.ts';
import { type Feed, type FeedOptions, openFeed } from './feed.ts';
import { type FeedClass, FeedClasses, type FeedResource, type Line } from './feed-class.ts';
import type { Hold } from './held-snapshot.ts';
import { httpSink, type Sink, socketSink } from './sinks.ts';
import { Turns } from './turns.ts';

export type { FeedResource } from './feed-class.ts';
export type { FeedLine } from './lines.ts';

export interface HttpFeedOptions {
  readonly broadcast: Broadcast;
  readonly kv: Pick<Kv, 'find'>;
  /** By the resource's name. Other buckets are not to be had. */
  readonly resources: Readonly<Record<string, FeedResource>>;
  readonly bookmarkMs?: number;
  /** How long a reader may take nothing of the log, or of a page of its snapshot, in ms (30,000). */
  readonly stuckMs?: number;
  /**
   * How often websockets are pinged, and those told over HTTP who wait for a snapshot that this instance lives. A websocket
   * that has not answered by the next time is ended. In ms (15,000).
   */
  readonly pingMs?: number;
}

const querySchema = z.strictObject({
  resource: z.string().min(1).describe('name of a resource, or of its bucket'),
  filter: z
    .string()
    .min(1)
    .optional()
    .describe('LDAP filter over indexed fields: only objects that match, and those that cease to'),
  since: z
    .string()
    .min(1)
    .optional()
    .describe('cursor of an earlier line: go on right after it; or a position: what was committed after it'),
  snapshot: z
    .enum(['true', 'false'])
    .default('false')
    .transform((s) => s === 'true')
    .describe('begin with everything there is; with `since`: only where the cursor is gone'),
});
type Query = z.output<typeof querySchema>;

/** Close codes of RFC 6455. */
const POLICY_VIOLATION = 1008;
const TRY_AGAIN_LATER = 1013;

const defaultPingMs = 15_000;
/** How many snapshots are in memory at once, each for all who share it. */
const snapshotsAtOnce = 4;
/** How long a websocket that was closed may take to answer, in ms. */
const closeMs = 1_000;
const lagNow = gauge(
  'conger_feed_lag_changes',
  'changes that this process holds and its slowest feed reader has not taken',
);
const catchingUpNow = gauge(
  'conger_feed_catching_up',
  'feed readers that read a snapshot or the log, behind this process',
);

/**
 * A fastify plugin: `GET /feed?resource=&filter=&since=&snapshot=` answers JSON lines for as long as the client listens,
 * and as a websocket one line a message. A client that was cut off asks again with the cursor of the last line it has;
 * any instance can go on from it. What cannot be served is answered before the first line, with its status; to a
 * websocket, where the cursor is gone, by a last line.
 */
export async function httpFeed(fastify: FastifyInstance, options: HttpFeedOptions): Promise<void> {
  if (!fastify.hasDecorator('websocketServer')) await fastify.register(websocket);
  const feeds = new Feeds(options);
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  app.addHook('preClose', () => feeds.close());
  app.route({
    method: 'GET',
    url: '/feed',
    exposeHeadRoute: false,
    schema: { querystring: querySchema },
    preHandler: async (request) => feeds.check(request.query),
    handler: async (request, reply) => {
      const { raw } = reply;
      // JSON allows spaces ahead of a value, so that clients need not know of it.
      const heartbeat = () => raw.write(' ');
      const begin = await feeds.open(request.query, () => httpSink(raw), heartbeat);
      reply.hijack();
      // Not waited for: what fastify keeps of a request that it waits for would be kept for as long as the client listens.
      feeds.serveHttp(begin, raw, reply.getHeaders());
    },
    wsHandler: (socket, request) => {
      // The plugin closes its sockets before anyone else hears that the server ends. These have a last line to come.
      fastify.websocketServer.clients.delete(socket);
      // What this route's schema made of the query.
      void feeds.serveSocket(socket, request.raw.socket, request.query as Query);
    },
  });
}

type Begin = () => Feed;

/** Tells a reader that this instance lives, where there is nothing to be sent. */
type Heartbeat = () => void;

/** The open feeds of one server. */
class Feeds {
  readonly #options: HttpFeedOptions;
  readonly #classes: FeedClasses;
  readonly #feeds = new Set<Feed>();
  readonly #sockets = new Map<WebSocket, boolean>();
  readonly #pulse: NodeJS.Timeout;
  readonly #snapshots = new Turns(snapshotsAtOnce);
  /** Of the readers whose snapshot is not sent yet. */
  readonly #heartbeats = new Set<Heartbeat>();
  #closed = false;

  constructor(options: HttpFeedOptions) {
    this.#options = options;
    this.#classes = new FeedClasses(options.resources);
    this.#pulse = setInterval(() => this.#beat(), options.pingMs ?? defaultPingMs).unref();
  }

  /** @throws CongerError ResourceNotFound, InvalidQueryError, NotIndexedError */
  check({ resource, filter }: Query): void {
    const [, leave] = this.#classes.join(this.#find(resource), filter);
    leave();
  }

  /**
   * Finds where a feed begins; it begins when the answered function is called.
   * @throws CongerError as `check`, and BadRequest, PositionGone
   */
  async open(query: Query, sink: () => Sink, heartbeat?: Heartbeat): Promise<Begin> {
    const { broadcast, bookmarkMs, stuckMs } = this.#options;
    const resource = this.#find(query.resource);
    const since = await this.#since(query);
    if (this.#closed) throw ending();
    return () => {
      const [readers, leave] = this.#classes.join(resource, query.filter);
      const feed = openFeed<string, Line>({
        broadcast,
        since,
        select: readers.select,
        cohorts: readers.cohorts,
        send: sink(),
        ...(bookmarkMs === undefined ? {} : { bookmarkMs }),
        ...(stuckMs === undefined ? {} : { stuckMs }),
        ...(query.snapshot && since === undefined ? this.#snapshotOf(readers, heartbeat) : {}),
      });
      this.#feeds.add(feed);
      void feed.done.then(() => {
        this.#feeds.delete(feed);
        leave();
      });
      return feed;
    };
  }

  serveHttp(begin: Begin, response: ServerResponse, headers: object): void {
    response.writeHead(200, {
      ...headers,
      'content-type': 'application/x-ndjson',
      'cache-control': 'no-store',
      // Kept for another request it would hold up the end of the server, which ends its feeds.
      connection: 'close',
    });
    // A snapshot may take its time.
    response.flushHeaders();
    try {
      const feed = begin();
      response.on('error', () => feed.close());
      response.on('close', () => feed.close());
      void feed.done.then(() => response.end());
    } catch (error) {
      response.destroy(error instanceof Error ? error : undefined);
    }
  }

  async serveSocket(socket: WebSocket, connection: Writable, query: Query): Promise<void> {
    socket.on('error', () => socket.terminate());
    socket.on('pong', () => this.#sockets.set(socket, true));
    socket.once('close', () => this.#sockets.delete(socket));
    this.#sockets.set(socket, true);
    try {
      const begin = await this.open(query, () => socketSink(socket, connection));
      const feed = begin();
      socket.once('close', () => feed.close());
      await feed.done;
      socket.close(TRY_AGAIN_LATER, 'resume from the last cursor');
    } catch (error) {
      const code = isCongerError(error) ? error.code : 'InternalError';
      socket.send(JSON.stringify({ type: 'error', code, message: messageOf(error) }));
      socket.close(isCongerError(error) && error.status < 500 ? POLICY_VIOLATION : TRY_AGAIN_LATER, code);
    }
  }

  /** Ends every feed with a last line. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#pulse);
    for (const feed of this.#feeds) feed.close(ending());
    await Promise.all([...this.#feeds].map((feed) => feed.done));
    setTimeout(() => {
      for (const socket of this.#sockets.keys()) socket.terminate();
    }, closeMs).unref();
  }

  #snapshotOf(
    readers: FeedClass,
    heartbeat: Heartbeat = () => undefined,
  ): Pick<FeedOptions<string, Line>, 'snapshot' | 'snapshotOver'> {
    const { broadcast, kv } = this.#options;
    let held: Hold<string> | undefined;
    return {
      snapshot: () => {
        this.#heartbeats.add(heartbeat);
        held = readers.hold(broadcast, kv, this.#snapshots);
        return held.answer;
      },
      snapshotOver: () => {
        this.#heartbeats.delete(heartbeat);
        held?.release();
      },
    };
  }

  /** Where the query wants to go on from; undefined: from here, or from a snapshot. */
  async #since({ since, snapshot }: Query): Promise<CatchUp | undefined> {
    if (since === undefined) return undefined;
    try {
      return await this.#options.broadcast.resume(since);
    } catch (error) {
      if (snapshot && isCongerError(error, 'PositionGone')) return undefined;
      throw error;
    }
  }

  #find(wanted: string): [string, FeedResource] {
    const found = this.#classes.find(wanted);
    if (found === undefined) throw new CongerError('ResourceNotFound', `no feed of ${wanted}`);
    return found;
  }

  #beat(): void {
    for (const [socket, heard] of this.#sockets) {
      if (!heard) socket.terminate();
      else socket.ping();
      this.#sockets.set(socket, false);
    }
    for (const heartbeat of this.#heartbeats) heartbeat();
    const lags = [...this.#feeds].map(({ lag }) => lag);
    lagNow.set(lags.reduce<number>((most, lag) => Math.max(most, lag ?? 0), 0));
    catchingUpNow.set(lags.filter((lag) => lag === undefined).length);
  }
}
