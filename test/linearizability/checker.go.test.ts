import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildChecker, check, checkerAvailable } from './check.ts';
import { type Operation, writeHistory } from './history.ts';

const available = await checkerAvailable();
let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'conger-checker-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

type Span = readonly [start: number, end: number];
type Line = Omit<Operation, 'client' | 'key'>;

const of = (op: Operation['op'], [start, end]: Span, fields: Omit<Line, 'op' | 'start' | 'end'>): Line => ({
  op,
  start,
  end,
  ...fields,
});
const put = (span: Span, value: string, outcome: Operation['outcome'] = 'ok') =>
  of('put', span, { value, etag: `E${value}`, check: 'any', outcome });
const create = (span: Span, value: string, outcome: Operation['outcome'] = 'ok') =>
  of('put', span, { value, etag: `E${value}`, check: 'none', outcome });
const update = (span: Span, from: string, value: string, outcome: Operation['outcome'] = 'ok') =>
  of('put', span, { value, etag: `E${value}`, check: 'etag', want: `E${from}`, outcome });
const del = (span: Span, outcome: Operation['outcome'] = 'ok') =>
  of('delete', span, { check: 'any', outcome });
const delIf = (span: Span, from: string, outcome: Operation['outcome'] = 'ok') =>
  of('delete', span, { check: 'etag', want: `E${from}`, outcome });
const get = (span: Span, value: string) =>
  of('get', span, { outcome: 'ok', exists: true, foundValue: value, foundEtag: `E${value}` });
const gone = (span: Span) => of('get', span, { outcome: 'missing' });
/** The same attempt, answered by a conflict with what is there. */
const but = (line: Line, there: string | undefined): Line => ({
  ...line,
  outcome: 'conflict',
  exists: there !== undefined,
  ...(there === undefined ? {} : { foundEtag: `E${there}` }),
});
const since = (start: number): Span => [start, start];

async function verdictOf(lines: readonly Line[]): Promise<string | undefined> {
  const path = join(directory, 'history.jsonl');
  await writeHistory(
    path,
    lines.map((line, client) => ({ client, key: 'k', ...line })),
  );
  const [verdict] = await check(path, directory);
  return verdict?.verdict;
}

describe.skipIf(!available)('the checker', () => {
  beforeAll(async () => {
    await buildChecker();
  }, 600_000);

  test.each<[string, Line[]]>([
    ['one after the other', [put([1, 2], 'a'), get([3, 4], 'a'), update([5, 6], 'a', 'b'), get([7, 8], 'b')]],
    ['created, deleted, created', [create([1, 2], 'a'), del([3, 4]), gone([5, 6]), create([7, 8], 'b')]],
    ['a read of a put under way', [put([1, 10], 'a'), get([2, 3], 'a')]],
    ['a read before a put under way', [put([1, 10], 'a'), gone([2, 3]), get([4, 5], 'a')]],
    [
      'one of two updates at once',
      [put([1, 2], 'a'), update([3, 6], 'a', 'b'), but(update([3, 6], 'a', 'c'), 'b')],
    ],
    ['a conflict with nothing', [but(update([1, 2], 'a', 'b'), undefined), gone([3, 4])]],
    ['a create where there is one', [put([1, 2], 'a'), but(create([3, 4], 'b'), 'a')]],
    ['a delete of nothing', [del([1, 2], 'missing'), delIf([3, 4], 'a', 'missing')]],
    [
      'a delete of another',
      [put([1, 2], 'a'), but(delIf([3, 4], 'z'), 'a'), delIf([5, 6], 'a'), gone([7, 8])],
    ],
    ['an unknown put that happened', [put(since(1), 'a', 'unknown'), get([3, 4], 'a')]],
    ['an unknown put that never happened', [put(since(1), 'a', 'unknown'), gone([3, 4]), gone([5, 6])]],
    ['an unknown put that happened late', [put(since(1), 'a', 'unknown'), gone([3, 4]), get([5, 6], 'a')]],
    [
      'an unknown put that was overwritten',
      [put(since(1), 'a', 'unknown'), put([3, 4], 'b'), get([5, 6], 'b'), get([7, 8], 'b')],
    ],
    ['an unknown put that only a delete has met', [put(since(1), 'a', 'unknown'), del([3, 4]), gone([5, 6])]],
    [
      'an unknown update that did not apply',
      [put([1, 2], 'a'), update(since(3), 'z', 'b', 'unknown'), get([5, 6], 'a')],
    ],
    [
      'an unknown delete that happened',
      [put([1, 2], 'a'), del(since(3), 'unknown'), get([5, 6], 'a'), gone([7, 8])],
    ],
    [
      'an unknown put that a conflict has seen',
      [put([1, 2], 'a'), put(since(3), 'b', 'unknown'), but(update([5, 6], 'a', 'c'), 'b')],
    ],
    ['a put that failed', [put([1, 2], 'a'), put([3, 4], 'b', 'failed'), get([5, 6], 'a')]],
  ])('passes %s', async (_name, lines) => {
    expect(await verdictOf(lines)).toBe('ok');
  });

  test.each<[string, Line[]]>([
    ['a lost update', [put([1, 2], 'a'), update([3, 4], 'a', 'b'), get([5, 6], 'a')]],
    ['a lost put that was overwritten by none', [put([1, 2], 'a'), put([3, 4], 'b'), get([5, 6], 'a')]],
    ['a stale read', [put([1, 2], 'a'), put([3, 4], 'b'), get([5, 6], 'b'), get([7, 8], 'a')]],
    ['a stale read of nothing', [put([1, 2], 'a'), gone([3, 4])]],
    [
      'reads of one put in two orders',
      [put([1, 2], 'a'), put([3, 9], 'b'), get([4, 5], 'b'), get([6, 7], 'a')],
    ],
    ['a deleted object that came back', [put([1, 2], 'a'), del([3, 4]), gone([5, 6]), get([7, 8], 'a')]],
    ['two updates from one etag', [put([1, 2], 'a'), update([3, 6], 'a', 'b'), update([3, 6], 'a', 'c')]],
    ['two creates of one object', [create([1, 4], 'a'), create([1, 4], 'b')]],
    ['a create over an object', [put([1, 2], 'a'), create([3, 4], 'b')]],
    ['two deletes of one object', [put([1, 2], 'a'), del([3, 6]), del([3, 6])]],
    ['a delete of another object', [put([1, 2], 'a'), put([3, 4], 'b'), delIf([5, 6], 'a')]],
    ['a value from nowhere', [put([1, 2], 'a'), get([3, 4], 'x')]],
    ['a value that is read before it is written', [get([1, 2], 'a'), put([3, 4], 'a')]],
    ['an etag that is not the value’s', [put([1, 2], 'a'), { ...get([3, 4], 'a'), foundEtag: 'Ex' }]],
    ['a conflict with what is asked for', [put([1, 2], 'a'), but(update([3, 4], 'a', 'b'), 'a')]],
    ['a conflict that names what is not there', [put([1, 2], 'a'), but(update([3, 4], 'z', 'b'), 'c')]],
    ['a put that failed and is there', [put([1, 2], 'a'), put([3, 4], 'b', 'failed'), get([5, 6], 'b')]],
    [
      'an unknown put that happened twice',
      [
        put(since(1), 'a', 'unknown'),
        get([3, 4], 'a'),
        put([5, 6], 'b'),
        get([7, 8], 'b'),
        get([9, 10], 'a'),
      ],
    ],
    [
      'an unknown update over what it was not for',
      [put([1, 2], 'a'), update(since(3), 'z', 'b', 'unknown'), get([5, 6], 'b')],
    ],
    [
      'an unknown delete that happened twice',
      [put([1, 2], 'a'), del(since(3), 'unknown'), gone([5, 6]), put([7, 8], 'b'), gone([9, 10])],
    ],
    ['an unknown put before it was asked for', [get([1, 2], 'a'), put(since(3), 'a', 'unknown')]],
  ])('finds %s', async (_name, lines) => {
    expect(await verdictOf(lines)).toBe('illegal');
  });

  test('draws what is illegal, and tells it from other keys', async () => {
    const path = join(directory, 'history.jsonl');
    const lines = [put([1, 2], 'a'), get([3, 4], 'x')];
    await writeHistory(path, [
      ...lines.map((line) => ({ client: 0, key: 'bad', ...line })),
      { client: 1, key: 'good', ...put([1, 2], 'a') },
    ]);
    const verdicts = await check(path, directory);
    expect(verdicts).toMatchObject([
      { key: 'bad', operations: 2, verdict: 'illegal' },
      { key: 'good', operations: 1, verdict: 'ok' },
    ]);
    expect(await readFile(verdicts[0]?.picture ?? '', 'utf8')).toContain('<html');
  });

  test('says where it could not decide in time', async () => {
    // Blind puts that nobody sees, in any order: none leads to what is read, and there are 24! of them.
    const puts = Array.from({ length: 24 }, (_, i) => put(since(1), `u${i}`, 'unknown'));
    const path = join(directory, 'history.jsonl');
    const lines = [...puts, get([3, 4], 'x')];
    await writeHistory(
      path,
      lines.map((line, client) => ({ client, key: 'k', ...line })),
    );
    expect(await check(path, directory, { seconds: 0.2 })).toMatchObject([
      { verdict: 'unknown', unknown: 24 },
    ]);
  });

  test.each([
    ['an empty history', ''],
    ['what is no JSON', '{'],
    [
      'an outcome that it does not know',
      JSON.stringify({ client: 0, key: 'k', ...get([1, 2], 'a'), outcome: 'fine' }),
    ],
    ['an end before the start', JSON.stringify({ client: 0, key: 'k', ...get([2, 1], 'a') })],
  ])('refuses %s', async (_name, text) => {
    const path = join(directory, 'history.jsonl');
    await writeFile(path, text);
    await expect(check(path, directory)).rejects.toThrow('the checker ended with 3');
  });
});
