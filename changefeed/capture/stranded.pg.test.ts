import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { startProxy, type TcpProxy } from '../../test/fixtures/proxy.ts';
import { createEmbeddedWriter } from '../log/embedded/index.ts';
import { ensureLog } from '../log/embedded/schema.ts';
import { Capture } from './capture.ts';
import { emit, logLines, query, untilAppended, Witness } from './wal.testing.ts';

/** Connections that nobody ends and that nothing comes through any more: TCP alone notices after a quarter of an hour. */

const log = silentLogger();
const partitions = 2;
/** Quiet connections are given up after up to 30 s; the rest is for the machine. */
const timeout = 180_000;

let server: TestPostgres;
let proxy: TcpProxy;
let capture: Capture;
let client: pg.Client;
let truth: Witness;
let proxied: string;

function captureOver(postgres: string, writerThrough: string, opened: () => void = () => undefined): Capture {
  return new Capture({
    postgres,
    slot: 'conger',
    partitions,
    openWriter: async () => {
      const inner = createEmbeddedWriter({
        ...{ postgres: writerThrough, partitions, retainMs: 2 ** 45, retainRecords: 1e6 },
        log,
      });
      return {
        open: () => inner.open().finally(opened),
        append: (records) => inner.append(records),
        close: () => inner.close(),
      };
    },
    log,
  });
}

async function start(writerThrough: string, postgres = proxied, opened?: () => void): Promise<void> {
  capture = captureOver(postgres, writerThrough, opened);
  await capture.start();
  while (!capture.status.active) await sleep(10);
}

async function change(body: string): Promise<void> {
  await emit(client, [{ partitionKey: 'k', body }]);
}

beforeEach(async () => {
  server = await startPostgres({ wal_sender_timeout: '2s' });
  proxy = await startProxy(Number(new URL(server.url).port));
  const url = new URL(server.url);
  url.port = String(proxy.port);
  proxied = url.href;
  client = new pg.Client(server.url);
  await client.connect();
  truth = new Witness(server.url);
  await truth.prepare();
});

afterEach(async () => {
  vi.restoreAllMocks();
  await capture?.stop();
  await proxy?.close();
  await client?.end();
  await server?.stop();
});

test('a capture whose connections all went silent begins anew over others', { timeout }, async () => {
  await start(proxied);
  await change('before');
  await untilAppended(server.url, 1);
  proxy.strand();
  await change('after');
  await untilAppended(server.url, 2);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('so does one whose stream alone went silent', { timeout }, async () => {
  await start(server.url);
  await change('before');
  await untilAppended(server.url, 1);
  proxy.strand(1);
  await change('after');
  await untilAppended(server.url, 2);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('and one whose connection for questions alone went silent', { timeout }, async () => {
  await start(server.url);
  await change('before');
  await untilAppended(server.url, 1);
  // The stream is opened last, and goes with it.
  proxy.strand(2);
  await change('after');
  await untilAppended(server.url, 2);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('also where that happens as it begins', { timeout }, async () => {
  let stranded = false;
  await start(server.url, proxied, () => {
    if (!stranded) proxy.strand(1);
    stranded = true;
  });
  await change('after');
  await untilAppended(server.url, 1);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('and one whose connection to the log alone went silent', { timeout }, async () => {
  await start(proxied, server.url);
  await change('before');
  await untilAppended(server.url, 1);
  proxy.strand();
  await change('after');
  await untilAppended(server.url, 2);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('be it as it takes the log over', { timeout }, async () => {
  await ensureLog(client, partitions);
  // Without a transaction id, which the slot would wait for.
  await client.query('BEGIN; LOCK TABLE conger_log_writer IN EXCLUSIVE MODE');
  const started = start(proxied, server.url);
  const waiting = `SELECT FROM pg_stat_activity WHERE application_name = 'conger log writer' AND wait_event_type = 'Lock'`;
  while ((await query(server.url, waiting)).length === 0) await sleep(10);
  proxy.strand();
  await client.query('COMMIT');
  await started;
  await change('after');
  await untilAppended(server.url, 1);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('or as its stream begins', { timeout }, async () => {
  const { query: ask } = pg.Client.prototype;
  const asked = vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (
    this: pg.Client,
    ...question: unknown[]
  ) {
    if (String(question[0]).startsWith('START_REPLICATION')) {
      proxy.strand(1);
      asked.mockRestore();
    }
    return Reflect.apply(ask, this, question);
  } as typeof ask);
  await start(server.url);
  await change('after');
  await untilAppended(server.url, 1);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('or as it waits to take over', { timeout }, async () => {
  await start(server.url, server.url);
  const first = capture;
  capture = captureOver(proxied, server.url);
  try {
    await capture.start();
    const waiting = `SELECT FROM pg_stat_activity WHERE application_name = 'conger capture conger seat' AND wait_event_type = 'Lock'`;
    while ((await query(server.url, waiting)).length === 0) await sleep(10);
    proxy.strand();
  } finally {
    await first.stop();
  }
  await change('after');
  await untilAppended(server.url, 1);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});
