import pg from 'pg';
import { afterAll, beforeAll } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../../test/fixtures/postgres.ts';
import { startProxy } from '../../../test/fixtures/proxy.ts';
import { gapContract } from '../../testing/gap-contract.ts';
import { type LogUnderTest, logContract } from '../../testing/log-contract.ts';
import { createEmbeddedReader, createEmbeddedWriter } from './index.ts';
import { trim } from './trim.ts';

const log = silentLogger();
const partitions = 8;
let server: TestPostgres;
let databases = 0;

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

/** The number of the record that the last `kept` of each partition begin with, where all are filled evenly. */
async function seqBefore(postgres: string, kept: number): Promise<bigint> {
  const client = new pg.Client(postgres);
  await client.connect();
  const { rows } = await client.query<{ seq: string }>(
    'SELECT seq FROM conger_log ORDER BY seq DESC OFFSET $1 LIMIT 1',
    [kept * partitions - 1],
  );
  await client.end();
  return BigInt(rows[0]?.seq ?? 0);
}

/** A database of its own; readers reach it through proxies, so that their connections can be cut. */
async function setup(): Promise<LogUnderTest> {
  const name = `log${++databases}`;
  const admin = new pg.Client(server.url);
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name}`);
  await admin.end();

  const direct = new URL(server.url);
  direct.pathname = `/${name}`;
  const proxies: Awaited<ReturnType<typeof startProxy>>[] = [];
  const proxied = async () => {
    const proxy = await startProxy(Number(direct.port));
    proxies.push(proxy);
    const url = new URL(direct);
    url.port = String(proxy.port);
    return { proxy, reader: await createEmbeddedReader({ postgres: url.href, partitions, log }) };
  };
  return {
    partitions,
    writer: async () =>
      createEmbeddedWriter({ postgres: direct.href, partitions, retainMs: 2 ** 45, retainRecords: 1e6, log }),
    reader: async () => (await proxied()).reader,
    mortal: async () => {
      const { reader, proxy } = await proxied();
      return { reader, crash: async () => proxy.refuse() };
    },
    drop: async (kept) => {
      await trim({
        postgres: direct.href,
        partitions,
        fromSeq: Number(await seqBefore(direct.href, kept)),
        fromTime: 0,
        log,
      });
    },
    wipe: async () => {
      const client = new pg.Client(direct.href);
      await client.connect();
      await client.query('TRUNCATE conger_log');
      await client.end();
    },
    cut: async () => {
      for (const proxy of proxies) proxy.cut();
    },
    close: async () => {
      await Promise.all(proxies.map((proxy) => proxy.close()));
    },
  };
}

logContract('the embedded log', setup, 120_000);
gapContract('the embedded log', setup, 120_000);
