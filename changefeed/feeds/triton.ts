import websocket from '@fastify/websocket';
import type { FastifyInstance } from 'fastify';
import type { WebSocket } from 'ws';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { gauge } from '../../runtime/metrics.ts';
import type { Broadcast } from '../broadcast.ts';
import type { Change } from '../types.ts';
import {
  parseRegistration,
  type Registration,
  type TritonVersion,
  versionOf,
} from './triton-registration.ts';

/** What a listener is told of one change. */
export interface TritonItem {
  /** What of the resource changed; `create` and `delete` count as such. */
  readonly subResources: readonly string[];
  readonly changedResourceId: string;
  /** Fields of the item besides Triton's own, for example `resourceObject`. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export interface TritonResource {
  /** `vm`, `nic`, ... */
  readonly resource: string;
  /** Everything that a listener may ask for. */
  readonly subResources: readonly string[];
  /** Where a listener reads the whole state, after it has registered: `/vms`. */
  readonly bootstrapRoute: string;
  readonly bucket: string;
  /** The item of a change, or undefined where it is of no interest outside. */
  readonly toItem: (change: Change) => TritonItem | undefined;
}

export interface TritonFeedOptions {
  readonly broadcast: Broadcast;
  readonly resources: readonly TritonResource[];
  readonly log: Logger;
  /** Bytes that may wait for one listener before it is cut off. */
  readonly maxBuffered?: number;
}

interface Listener {
  readonly socket: WebSocket;
  readonly instance: string;
  readonly service: string;
  /** The sub resources subscribed to, by resource. */
  readonly wants: ReadonlyMap<string, ReadonlySet<string>>;
}

const listenersNow = gauge('conger_changefeed_listeners', 'listeners of Triton’s changefeed in this process');
const maxBufferedDefault = 16 * 1024 * 1024;

/** Close codes of RFC 6455. */
const POLICY_VIOLATION = 1008;
const GOING_AWAY = 1001;
const TRY_AGAIN_LATER = 1013;

/**
 * A fastify plugin: Triton's changefeed, as the npm package `changefeed` listens to it: `GET /changefeeds` (the
 * resources), `GET /changefeeds/stats`, and a websocket on `/changefeeds`. Every instance tells every listener
 * everything, each item once, in the order of the log. The protocol has no cursor: a listener that lost its
 * connection registers again, with any instance, and reads the bootstrap route; so where changes may have been missed
 * every connection is ended.
 */
export async function tritonFeed(fastify: FastifyInstance, options: TritonFeedOptions): Promise<void> {
  if (!fastify.hasDecorator('websocketServer')) await fastify.register(websocket);
  const { broadcast, log } = options;
  const listeners = new Listeners(options);
  const buckets = [...new Set(options.resources.map((r) => r.bucket))];
  const unsubscribe = broadcast.subscribe({
    buckets,
    onChange: (change) => listeners.publish(change),
    onGap: () =>
      listeners.closeAll(TRY_AGAIN_LATER, 'changes may have been missed; register again and bootstrap'),
  });
  const described = Object.fromEntries(
    options.resources.map(({ resource, subResources, bootstrapRoute }) => [
      resource,
      { resource, subResources, bootstrapRoute },
    ]),
  );

  fastify.addHook('preClose', async () => {
    unsubscribe();
    listeners.closeAll(GOING_AWAY, 'the server is ending');
  });
  fastify.get('/changefeeds/stats', async () => listeners.stats());
  fastify.route({
    method: 'GET',
    url: '/changefeeds',
    handler: async () => described,
    wsHandler: (socket, request) => {
      request.raw.socket.setKeepAlive(true, 30_000);
      const version = versionOf(request.headers['accept-version']);
      socket.on('error', (error) =>
        log.info({ err: error }, `changefeed listener failed: ${messageOf(error)}`),
      );
      // Only the first text counts: after it a listener sends `heartbeat` now and then.
      socket.once('message', (data) => register(socket, data.toString(), version));
    },
  });

  function register(socket: WebSocket, text: string, version: TritonVersion): void {
    let registration: Registration;
    try {
      registration = parseRegistration(text, version, new Set(Object.keys(described)));
    } catch (error) {
      log.warn({ version }, `changefeed registration refused: ${messageOf(error)}`);
      socket.close(POLICY_VIOLATION, messageOf(error).slice(0, 100));
      return;
    }
    listeners.add({ socket, ...registration });
    const routes = [...registration.wants.keys()].map((name) => described[name]);
    socket.send(JSON.stringify(version === 1 ? routes[0] : { bootstrapRoutes: routes }));
  }
}

/**
 * The registered listeners, each known by its connection: listeners that call themselves the same do not replace each
 * other. One that does not take what it is sent is cut off rather than left out.
 */
class Listeners {
  readonly #listeners = new Set<Listener>();
  readonly #resources: readonly TritonResource[];
  readonly #log: Logger;
  readonly #maxBuffered: number;

  constructor({ resources, log, maxBuffered }: TritonFeedOptions) {
    this.#resources = resources;
    this.#log = log;
    this.#maxBuffered = maxBuffered ?? maxBufferedDefault;
  }

  add(listener: Listener): void {
    this.#listeners.add(listener);
    listenersNow.inc();
    listener.socket.once('close', () => this.#remove(listener));
    const { instance, service } = listener;
    this.#log.info(
      { listener: instance, service, resources: [...listener.wants.keys()] },
      'changefeed listener',
    );
  }

  publish(change: Change): void {
    if (this.#listeners.size === 0) return;
    for (const entry of this.#resources) {
      if (entry.bucket !== change.bucket) continue;
      const item = entry.toItem(change);
      if (item !== undefined) this.#send(entry.resource, item, change);
    }
  }

  stats(): { listeners: number; registrations: Record<string, object[]> } {
    const registrations: Record<string, object[]> = {};
    for (const { resource } of this.#resources) registrations[resource] = [];
    for (const { instance, service, wants } of this.#listeners) {
      for (const [resource, subs] of wants) {
        registrations[resource]?.push({ instance, service, resource, subResources: [...subs] });
      }
    }
    return { listeners: this.#listeners.size, registrations };
  }

  closeAll(code: number, reason: string): void {
    for (const listener of this.#listeners) {
      this.#remove(listener);
      listener.socket.close(code, reason);
    }
  }

  #send(resource: string, item: TritonItem, change: Change): void {
    let text: string | undefined;
    for (const listener of this.#listeners) {
      const wanted = listener.wants.get(resource);
      if (wanted === undefined || !item.subResources.some((sub) => wanted.has(sub))) continue;
      text ??= JSON.stringify({
        ...item.extra,
        changeKind: { resource, subResources: item.subResources },
        changedResourceId: item.changedResourceId,
        // A string, as Triton's publisher writes it.
        published: String(change.time),
      });
      listener.socket.send(text);
      if (listener.socket.bufferedAmount > this.#maxBuffered) this.#cutOff(listener);
    }
  }

  #cutOff(listener: Listener): void {
    this.#log.warn(
      { listener: listener.instance, service: listener.service },
      'changefeed listener too slow, cut off',
    );
    this.#remove(listener);
    listener.socket.close(TRY_AGAIN_LATER, 'too slow; register again and bootstrap');
  }

  #remove(listener: Listener): void {
    if (this.#listeners.delete(listener)) listenersNow.dec();
  }
}
