import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { stopAndWake } from './stopped.testing.ts';
import { logLines, untilAppended, Witness } from './wal.testing.ts';

let server: TestPostgres;

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

test('a capture that is stopped is taken over, and appends nothing when it wakes', {
  timeout: 300_000,
}, async () => {
  const truth = new Witness(server.url);
  await truth.prepare();
  await stopAndWake(server.url, {}, { rounds: 4, seed: 7 }, (count) => untilAppended(server.url, count));
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});
