import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { isCongerError } from '../runtime/errors.ts';
import { type KvstoreProcess, spawnKvstore } from '../test/fixtures/kvstore.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { encodeMessage, FastDecoder, status } from './fast/codec.ts';
import { FastConnection } from './fast/connection.ts';

/** Much at once: results of many rows, slow clients, more calls than the queues take. */

/** 1,000,000 with `npm run test:flow`. */
const rows = Number(process.env.CONGER_TEST_FLOW_ROWS ?? 200_000);
const value = { s: 'x'.repeat(950), n: 0 };
const mb = 1024 * 1024;

vi.setConfig({ testTimeout: 240_000 });

let postgres: TestPostgres;
let server: KvstoreProcess;
const open: { destroy(): void }[] = [];

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  server = await spawnKvstore(postgres.url);
  const admin = await client();
  const index = { n: { type: 'number' } };
  await admin.call('createBucket', ['many', { index, options: { feed: false } }, {}]);
  await admin.call('createBucket', ['b', { index, options: { feed: false } }, {}]);
  const db = new pg.Client({ connectionString: postgres.url });
  await db.connect();
  await db.query(
    `INSERT INTO kv.many (_key, _value, _etag, _mtime, _pkey, n)
     SELECT 'k' || i, $1, 'ABCDEF01', 0, 'k' || i, i FROM generate_series(1, $2::integer) i`,
    [JSON.stringify(value), rows],
  );
  await db.query('ANALYZE kv.many');
  await db.end();
}, 600_000);

afterEach(() => {
  for (const each of open.splice(0)) each.destroy();
});

afterAll(async () => {
  await server?.stop();
  await postgres?.stop();
});

async function client(): Promise<FastConnection> {
  const connection = new FastConnection({ host: '127.0.0.1', port: server.port, silenceMs: 60_000 });
  await once(connection, 'connect');
  open.push(connection);
  return connection;
}

/** Of the server, in bytes. */
async function residentMemory(): Promise<number> {
  const text = await readFile(`/proc/${server.child.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(text)?.[1]) * 1024;
}

/** A client that asks for all rows and reads only when it is told to. */
class SlowReader {
  readonly #socket: Socket;
  readonly #closed: Promise<unknown>;
  readonly #decoder = new FastDecoder(64 * mb);
  rows = 0;
  error: string | undefined;
  ended = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#closed = new Promise((resolve) => socket.once('close', resolve));
  }

  static async start(bucket: string): Promise<SlowReader> {
    const socket = connect({ host: '127.0.0.1', port: server.port });
    open.push(socket);
    socket.on('error', () => {});
    await once(socket, 'connect');
    socket.pause();
    const options = { noLimit: true, no_count: true };
    socket.write(encodeMessage(2, status.data, 1, 'findObjects', [bucket, '(n>=0)', options]));
    return new SlowReader(socket);
  }

  /** Reads until `bytes` more have come, or the answer has ended. */
  async read(bytes: number): Promise<void> {
    const until = this.#socket.bytesRead + bytes;
    while (!this.ended && this.#socket.bytesRead < until && !this.#socket.destroyed) {
      const chunk: Buffer | null = this.#socket.read();
      if (chunk === null) await Promise.race([once(this.#socket, 'readable'), this.#closed]);
      else this.#take(chunk);
    }
  }

  #take(chunk: Buffer): void {
    this.#decoder.push(chunk);
    for (let m = this.#decoder.next(); m !== undefined; m = this.#decoder.next()) {
      if (m.status === status.error) this.error = m.error.name;
      else this.rows += m.values.length;
      this.ended ||= m.status !== status.data;
    }
  }
}

describe.runIf(process.platform === 'linux')('finds of all rows by clients that do not read', () => {
  test('take no memory, and hold up nobody else', async () => {
    const other = await client();
    await other.call('findObjects', ['many', '(n<=1000)', {}]);
    const before = await residentMemory();
    // More than there are connections to PostgreSQL.
    const readers = await Promise.all(Array.from({ length: 12 }, () => SlowReader.start('many')));
    await readers[0]?.read(mb);
    for (let i = 0; i < 100; i++) {
      await other.call('putObject', ['b', `k${i}`, value, {}]);
      expect(await other.call('getObject', ['many', `k${i + 1}`, {}])).toHaveLength(1);
      expect(await other.call('findObjects', ['many', `(n=${i + 1})`, {}])).toHaveLength(1);
    }
    expect((await residentMemory()) - before).toBeLessThan(100 * mb);
    for (const each of open.splice(1)) if (each !== open[0]) each.destroy();
  });

  test('are answered whole to a client that reads in the end, from flat memory', async () => {
    const other = await client();
    await other.call('findObjects', ['many', '(n<=1000)', {}]);
    const before = await residentMemory();
    const reader = await SlowReader.start('many');
    let most = 0;
    let puts = 0;
    while (!reader.ended) {
      await reader.read(8 * mb);
      await other.call('putObject', ['b', `k${puts++}`, value, {}]);
      most = Math.max(most, (await residentMemory()) - before);
    }
    expect(reader).toMatchObject({ error: undefined, rows });
    expect(puts).toBeGreaterThan((rows * 1000) / (9 * mb));
    expect(most).toBeLessThan(100 * mb);
  }, 600_000);

  test('are answered from flat memory where each row is as large as it may be', async () => {
    const other = await client();
    await other.call('createBucket', ['large', { index: { n: { type: 'number' } } }, {}]);
    const db = new pg.Client({ connectionString: postgres.url });
    await db.connect();
    await db.query(
      `INSERT INTO kv.large (_key, _value, _etag, _mtime, _pkey, n)
       SELECT 'k' || i, '{"s":"' || repeat('x', 3000000) || '"}', 'ABCDEF01', 0, 'k' || i, i FROM generate_series(1, 120) i`,
    );
    await db.end();
    const before = await residentMemory();
    const reader = await SlowReader.start('large');
    let most = 0;
    while (!reader.ended) {
      await reader.read(16 * mb);
      most = Math.max(most, (await residentMemory()) - before);
    }
    expect(reader).toMatchObject({ error: undefined, rows: 120 });
    expect(most).toBeLessThan(220 * mb);
  });
});

test('more calls than the server takes are each answered once, with a hint when to try again', async () => {
  const connections = await Promise.all(Array.from({ length: 16 }, client));
  const outcomes = new Map<string, number>();
  let answers = 0;
  let most = 0;
  const calls = connections.flatMap((connection, c) =>
    Array.from({ length: 1_000 }, async (_, i) => {
      let outcome = 'done';
      try {
        await connection.call('putObject', ['b', `flood-${c}-${i}`, value, {}]);
      } catch (error) {
        if (!isCongerError(error, 'OverloadedError')) throw error;
        expect(error.context.retryAfterMs).toBeGreaterThan(0);
        outcome = error.code;
      }
      answers++;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      if (process.platform === 'linux' && answers % 1_000 === 0)
        most = Math.max(most, await residentMemory());
    }),
  );
  await Promise.all(calls);
  expect(answers).toBe(16_000);
  expect(outcomes.get('OverloadedError')).toBeGreaterThan(0);
  expect(outcomes.get('done')).toBeGreaterThan(1_000);
  expect(most).toBeLessThan(400 * mb);
  // Each that was answered well is there, and no other is.
  const found = await connections[0]?.call('findObjects', ['b', '(_key=flood-*)', { limit: 1 }]);
  expect(found?.[0]).toMatchObject({ _count: outcomes.get('done') });
  // And it recovers.
  await connections[0]?.call('putObject', ['b', 'after', value, {}]);
  expect(await connections[1]?.call('getObject', ['b', 'after', {}])).toHaveLength(1);
});

test('a client with one put at a time does not wait behind all that others have sent', async () => {
  const flooders = await Promise.all(Array.from({ length: 4 }, client));
  const modest = await client();
  let flooding = true;
  let done = 0;
  const flood = flooders.flatMap((connection, c) =>
    Array.from({ length: 900 }, async (_, i) => {
      while (flooding) {
        await connection.call('putObject', ['b', `fair-${c}-${i}`, value, {}]);
        done++;
      }
    }),
  );
  await modest.call('putObject', ['b', 'modest', value, {}]);
  const meanwhile: number[] = [];
  for (let i = 0; i < 20; i++) {
    const before = done;
    await modest.call('putObject', ['b', 'modest', value, {}]);
    meanwhile.push(done - before);
  }
  flooding = false;
  await Promise.all(flood);
  // Two groups of 256 may be on their way, and its own; in order of arrival it would be all 3,600. One by one they may be
  // more: a process that is held up sees the answers of a longer time at once.
  const median = meanwhile.sort((a, b) => a - b)[10];
  expect(median).toBeLessThan(1_800);
});
