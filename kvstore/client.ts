import { setTimeout as delay } from 'node:timers/promises';
import { CongerError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { ensureBucket } from './client/buckets.ts';
import { Caller } from './client/caller.ts';
import { Objects } from './client/objects.ts';
import { Servers } from './client/servers.ts';
import type { Kv, OnReindexed } from './types.ts';

export interface KvOptions {
  /** `tcp://address:port` of every kvstore server. */
  readonly servers: readonly string[];
  readonly log: Logger;
  /** How long a call is tried again while no server answers it, in milliseconds. */
  readonly deadlineMs?: number;
}

const pingMs = 5_000;
const reindexLogMs = 5_000;
const closeMs = 2_000;

/** The client of the KV tier. It connects by itself; calls wait for a connection up to the deadline. */
export function createKv(options: KvOptions): Kv {
  const servers = new Servers(options.servers, options.log);
  const caller = new Caller(servers, options.log, options.deadlineMs ?? 15_000);
  const objects = new Objects(caller);
  const running = new Set<Promise<unknown>>();
  let closed = false;

  const run = async <T>(work: () => Promise<T>): Promise<T> => {
    if (closed) throw new CongerError('ServiceUnavailable', 'the KV client is closed');
    const promise = work();
    running.add(promise);
    try {
      return await promise;
    } finally {
      running.delete(promise);
    }
  };

  return {
    ensureBucket: (name, config, onReindexed) =>
      run(() => {
        const log = reindexLog(options.log);
        return ensureBucket(caller, name, config, (progress) => {
          log(progress);
          onReindexed?.(progress);
        });
      }),
    get: (bucket, key, opts) => run(() => objects.get(bucket, key, opts)),
    tryGet: (bucket, key, opts) => run(() => objects.tryGet(bucket, key, opts)),
    put: (bucket, key, value, opts) => run(() => objects.put(bucket, key, value, opts)),
    del: (bucket, key, opts) => run(() => objects.del(bucket, key, opts)),
    find: (bucket, filter, opts) => run(() => objects.find(bucket, filter, opts)),
    batch: (ops, opts) => run(() => objects.batch(ops, opts)),
    ping: () =>
      run(async () => {
        const options = { deep: true };
        await caller.call({ rpc: 'ping', args: (opts) => [opts], options, deadlineMs: pingMs });
      }),
    close: async () => {
      closed = true;
      await Promise.race([Promise.allSettled(running), delay(closeMs, undefined, { ref: false })]);
      await servers.close();
    },
  };
}

/** Says how far a reindexing is, every few seconds. */
function reindexLog(log: Logger): OnReindexed {
  let next = 0;
  return (progress) => {
    if (performance.now() < next) return;
    next = performance.now() + reindexLogMs;
    log.info({ ...progress }, 'reindexing a bucket');
  };
}
