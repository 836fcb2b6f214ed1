import { once } from 'node:events';
import { FastConnection } from '../../kvstore/fast/connection.ts';
import { moray } from '../../test/fixtures/moray.ts';
import { bucket } from './objects.ts';

/** The calls that are measured, as one client makes them. */
export interface BenchClient {
  put(key: string, value: object, options: object): Promise<{ etag: string }>;
  get(key: string): Promise<unknown>;
  /** Answers how many objects came. */
  find(filter: string, options: object): Promise<number>;
  batch(requests: readonly Readonly<Record<string, unknown>>[]): Promise<unknown>;
  close(): Promise<void>;
}

/** The npm package `moray`, which Triton's services use. */
export async function npmClient(port: number): Promise<BenchClient> {
  const client = await moray(port);
  return {
    put: (key, value, options) => client.putObject(bucket, key, value, { ...options }),
    get: (key) => client.getObject(bucket, key),
    find: async (filter, options) => (await client.findObjects(bucket, filter, { ...options })).length,
    batch: (requests) => client.batch(requests),
    close: () => client.close(),
  };
}

/** One connection of Conger's own client. */
export async function ownClient(port: number): Promise<BenchClient> {
  const connection = new FastConnection({ host: '127.0.0.1', port });
  await once(connection, 'connect');
  return {
    put: async (key, value, options) => {
      const [answer] = await connection.call('putObject', [bucket, key, value, options]);
      return answer as { etag: string };
    },
    get: (key) => connection.call('getObject', [bucket, key, {}]),
    find: async (filter, options) => (await connection.call('findObjects', [bucket, filter, options])).length,
    batch: (requests) => connection.call('batch', [requests, {}]),
    close: async () => {
      const closed = new Promise((resolve) => connection.once('close', resolve));
      connection.destroy();
      await closed;
    },
  };
}
