import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { ensureConsumerBuckets, startConsumer } from '../../changefeed/consumer.ts';
import { listHeld } from '../../changefeed/poison.ts';
import { type Road, startRoad, type TestProcess } from '../../changefeed/testing/road.ts';
import type { Change } from '../../changefeed/types.ts';
import type { Kv } from '../../kvstore/types.ts';
import { silentLogger } from '../../runtime/log.ts';
import type { Endpoints } from '../endpoints.ts';
import { poison } from './poison.ts';

let road: Road;
let member: TestProcess;
let home: string;

beforeAll(async () => {
  road = await startRoad(4);
  member = await road.process();
  const link = await road.link();
  home = await mkdtemp(join(tmpdir(), 'conger-poison-'));
  const none = {
    capture: [],
    cnapi: [],
    vmapi: [],
    napi: [],
    fwapi: [],
    adminui: [],
    kafka: null,
    nodes: [],
  };
  const endpoints: Endpoints = { ...none, kvstore: [link.kvstore], postgres: road.postgres, processes: [] };
  await writeFile(join(home, 'endpoints.json'), JSON.stringify(endpoints));
});

afterAll(async () => {
  await member?.close();
  await road?.close();
  await rm(home, { recursive: true, force: true });
});

async function conger(...args: string[]): Promise<string[]> {
  let out = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  try {
    expect(await poison.run([...args, '--home', home])).toBe(0);
  } finally {
    write.mockRestore();
  }
  return out.split('\n').filter(Boolean);
}

/** The consumer of the test: what a thing says becomes its owner's last word. */
async function speak(kv: Kv, broken: { now: boolean }) {
  return startConsumer({
    name: 'words',
    member: 'm',
    reader: member.reader,
    kv,
    log: silentLogger(),
    buckets: ['things'],
    retryMs: 1,
    handle: async (changes: readonly Change[]) => {
      const said = changes.map(({ value }) => value as { owner: string; word: string });
      if (broken.now && said.some(({ word }) => word === 'hush')) throw new Error('cannot say hush');
      return said.map(({ owner, word }) => ({
        operation: 'put' as const,
        bucket: 'words',
        key: owner,
        value: { word },
      }));
    },
  });
}

test('what waits is listed, shown, replayed and dropped', async () => {
  const { kv } = road;
  await ensureConsumerBuckets(kv);
  await kv.ensureBucket('things', {
    index: { owner: { type: 'string' } },
    options: { version: 1, partition: 'owner' },
  });
  await kv.ensureBucket('words', { index: {}, options: { version: 1, feed: false } });
  const broken = { now: true };
  const consumer = await speak(member.kv, broken);
  const word = async (owner: string) => (await kv.tryGet<{ word: string }>('words', owner))?.value.word;
  /** How many changes wait for each key that is held; one that nothing waits for any more is let go after that. */
  const waits = async (...counts: readonly number[]) =>
    vi.waitFor(async () => expect((await listHeld(kv)).map(({ count }) => count)).toEqual(counts), {
      timeout: 50_000,
      interval: 20,
    });

  for (const owner of ['ann', 'bob'])
    for (const [n, said] of ['one', 'hush', 'two'].entries())
      await kv.put('things', `${owner}${n}`, { owner, word: said });
  await waits(2, 2);
  expect(await word('ann')).toBe('one');
  const lines = await conger('list', 'words');
  expect(lines).toHaveLength(2);
  expect(lines.join('\n')).toMatch(/words \d {2}2 {2}ann {2}cannot say hush/);
  expect(await conger('list', 'others')).toEqual([]);
  const shown = (await conger('show', 'words', 'ann')).map((line) => JSON.parse(line));
  expect(shown).toMatchObject([
    { bucket: 'things', key: 'ann1', reason: 'cannot say hush', tries: 5 },
    { key: 'ann2' },
  ]);
  expect(JSON.parse(shown[1].body)).toMatchObject({ value: { word: 'two' } });

  await conger('drop', 'words', 'ann');
  await waits(2);
  expect(await word('ann')).toBe('two');
  broken.now = false;
  await conger('replay', 'words', 'bob');
  await waits();
  expect(await word('bob')).toBe('two');

  await expect(poison.run(['replay', 'words', 'bob', '--home', home])).rejects.toThrow('nothing waits');
  await expect(poison.run(['mend', 'words', 'bob', '--home', home])).rejects.toThrow('missing: list');
  await consumer.stop();
}, 120_000);
