import type { ServerResponse } from 'node:http';
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Kv, KvObject } from '../../kvstore/types.ts';
import { CongerError } from '../../runtime/errors.ts';
import { type Broadcast, ending } from '../broadcast.ts';
import type { Change } from '../types.ts';
import type { FeedCursor } from './cursor.ts';
import { type Feed, type FeedMessage, openFeed } from './feed.ts';

export interface FeedResource {
  readonly bucket: string;
  /** A filter that matches every object of the bucket, for snapshots. */
  readonly all: string;
  /** What of an object's value the outside sees. */
  readonly present: (value: unknown) => unknown;
}

export interface HttpFeedOptions {
  readonly broadcast: Broadcast;
  readonly kv: Pick<Kv, 'find'>;
  /** By the resource's name. Other buckets are not to be had. */
  readonly resources: Readonly<Record<string, FeedResource>>;
  readonly bookmarkMs?: number;
}

/** One line of the answer of `GET /feed`. Positions and cursors are opaque; times are in milliseconds since 1970. */
export type FeedLine =
  | {
      readonly type: 'put' | 'delete';
      readonly resource: string;
      readonly bucket: string;
      readonly key: string;
      readonly etag: string | null;
      readonly value: unknown;
      readonly previous: unknown;
      readonly position: string;
      readonly partition: number;
      readonly time: number;
      readonly requestId: string | null;
      readonly traceparent: string | null;
      readonly cursor: FeedCursor;
    }
  | {
      readonly type: 'snapshot';
      readonly resource: string;
      readonly bucket: string;
      readonly key: string;
      readonly etag: string;
      readonly value: unknown;
    }
  | { readonly type: 'snapshot-end'; readonly count: number; readonly cursor: FeedCursor }
  | { readonly type: 'bookmark'; readonly cursor: FeedCursor }
  | { readonly type: 'error'; readonly code: string; readonly message: string; readonly cursor?: FeedCursor };

const querySchema = z.strictObject({
  resource: z.string().min(1).describe('name of a resource, or of its bucket'),
  since: z.string().min(1).optional().describe('cursor of an earlier line: go on right after it'),
  snapshot: z
    .enum(['true', 'false'])
    .default('false')
    .transform((s) => s === 'true')
    .describe('begin with everything there is; with `since`: only where the cursor is gone'),
});

type Event = Omit<Extract<FeedLine, { type: 'put' | 'delete' }>, 'cursor'>;
type Message = FeedMessage<KvObject<unknown>, Event>;

/**
 * A fastify plugin: `GET /feed?resource=&since=&snapshot=` answers JSON lines, for as long as the client listens. A
 * client that was cut off asks again with the cursor of the last line it has; any instance can go on from it.
 */
export async function httpFeed(fastify: FastifyInstance, options: HttpFeedOptions): Promise<void> {
  const { broadcast, kv, bookmarkMs } = options;
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const feeds = new Set<Feed>();

  app.addHook('preClose', async () => {
    for (const feed of feeds) feed.close(ending());
    await Promise.all([...feeds].map((feed) => feed.done));
  });

  app.get(
    '/feed',
    { exposeHeadRoute: false, schema: { querystring: querySchema } },
    async (request, reply) => {
      const { since, snapshot } = request.query;
      const [name, resource] = find(options.resources, request.query.resource);
      const sink = new LineSink(reply.raw, name, resource);
      const feed = openFeed<KvObject<unknown>, Event>({
        broadcast,
        since,
        select: (change) => (change.bucket === resource.bucket ? eventOf(change, name, resource) : undefined),
        send: (message) => sink.send(message),
        ...(bookmarkMs === undefined ? {} : { bookmarkMs }),
        ...(snapshot ? { snapshot: () => snapshotOf(kv, resource) } : {}),
      });
      reply.hijack();
      reply.raw.writeHead(200, {
        ...reply.getHeaders(),
        'content-type': 'application/x-ndjson',
        'cache-control': 'no-store',
      } as Record<string, string>);
      reply.raw.on('error', () => feed.close());
      reply.raw.on('close', () => feed.close());
      feeds.add(feed);
      await feed.done;
      feeds.delete(feed);
      reply.raw.end();
    },
  );
}

function find(resources: HttpFeedOptions['resources'], wanted: string): [string, FeedResource] {
  const found = Object.entries(resources).find(([name, r]) => name === wanted || r.bucket === wanted);
  if (found === undefined) throw new CongerError('ResourceNotFound', `no feed of ${wanted}`);
  return found;
}

async function snapshotOf(kv: Pick<Kv, 'find'>, { bucket, all }: FeedResource) {
  const found = await kv.find<unknown>(bucket, all, { noLimit: true });
  return { items: found.objects, found };
}

function eventOf(change: Change, resource: string, { present }: FeedResource): Event {
  return {
    type: change.op,
    resource,
    bucket: change.bucket,
    key: change.key,
    etag: change.etag,
    value: change.value === null ? null : present(change.value),
    previous: change.previous === null ? null : present(change.previous),
    position: change.position,
    partition: change.partition,
    time: change.time,
    requestId: change.requestId,
    traceparent: change.traceparent,
  };
}

/** Writes messages as lines, no faster than the client takes them; the last line ends whatever was being written. */
class LineSink {
  readonly #response: ServerResponse;
  readonly #name: string;
  readonly #resource: FeedResource;
  #ended = false;

  constructor(response: ServerResponse, name: string, resource: FeedResource) {
    this.#response = response;
    this.#name = name;
    this.#resource = resource;
  }

  send(message: Message): boolean | Promise<boolean> {
    switch (message.type) {
      case 'event':
        return this.#write({ ...message.event, cursor: message.cursor });
      case 'bookmark':
        return this.#write({ type: 'bookmark', cursor: message.cursor });
      case 'snapshot':
        return this.#snapshot(message);
      case 'end': {
        const { error, cursor } = message;
        const line = { type: 'error', code: error.code, message: error.message } as const;
        const answer = this.#write(cursor === undefined ? line : { ...line, cursor });
        this.#ended = true;
        return answer;
      }
    }
  }

  async #snapshot({ items, cursor }: Extract<Message, { type: 'snapshot' }>): Promise<boolean> {
    for (const { bucket, key, _etag, value } of items) {
      const taken = await this.#write({
        type: 'snapshot',
        resource: this.#name,
        bucket,
        key,
        etag: _etag,
        value: this.#resource.present(value),
      });
      if (!taken) return false;
    }
    return this.#write({ type: 'snapshot-end', count: items.length, cursor });
  }

  #write(line: FeedLine): boolean | Promise<boolean> {
    const response = this.#response;
    if (this.#ended || response.destroyed) return false;
    if (response.write(`${JSON.stringify(line)}\n`)) return true;
    return new Promise((resolve) => {
      const settle = () => {
        response.off('drain', settle);
        response.off('close', settle);
        resolve(!response.destroyed);
      };
      response.once('drain', settle);
      response.once('close', settle);
    });
  }
}
