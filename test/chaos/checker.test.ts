import { expect, test } from 'vitest';
import { formatPosition } from '../../changefeed/position.ts';
import { check, type Property } from './checker.ts';
import type { History, Logged, Stream, Told, Write } from './history.ts';

/** Change `index` of `count` of the transaction `n`. */
function change(
  n: number,
  key: string,
  id: string | null,
  previous: string | null = null,
  [index, count]: readonly [number, number] = [0, 1],
): Logged {
  const position = formatPosition({ epoch: 1, lsn: BigInt(n) * 16n, index });
  return {
    partition: key.startsWith('a') ? 0 : 1,
    position,
    key,
    op: id === null ? 'delete' : 'put',
    id,
    previous,
    index,
    count,
  };
}

// Two partitions; transaction 4 is a batch over both, 5 one over two keys of the first.
const log: readonly Logged[][] = [
  [
    change(1, 'a1', 'v1'),
    change(3, 'a1', 'v3', 'v1'),
    change(4, 'a2', 'v4', null, [0, 2]),
    change(5, 'a1', 'v6', 'v3', [0, 2]),
    change(5, 'a3', 'v7', null, [1, 2]),
    change(7, 'a3', null, 'v7'),
    change(9, 'a9', 'end'),
  ],
  [
    change(2, 'b1', 'v2'),
    change(4, 'b1', 'v5', 'v2', [1, 2]),
    change(8, 'b2', 'v8'),
    change(10, 'b9', 'end2'),
  ],
];

function write(at: number, ops: Write['ops'], outcome: Write['outcome'] = 'ok'): Write {
  return { writer: 1, invoked: at, ended: at + 5, outcome, ops };
}

const put = (key: string, id: string, wants?: string | null) =>
  wants === undefined ? ({ op: 'put', key, id } as const) : ({ op: 'put', key, id, wants } as const);

const writes: readonly Write[] = [
  write(10, [put('a1', 'v1')]),
  write(20, [put('b1', 'v2', null)]),
  write(30, [put('a1', 'v3', 'v1')]),
  write(40, [put('a2', 'v4'), put('b1', 'v5')]),
  write(50, [put('a1', 'v6'), put('a3', 'v7')]),
  write(60, [put('a1', 'v0', 'v1')], 'failed'),
  write(70, [{ op: 'delete', key: 'a3', id: null, wants: 'v7' }]),
  write(80, [put('b2', 'v8')], 'unknown'),
  write(85, [put('b2', 'v9')], 'unknown'),
  write(90, [put('a9', 'end')]),
  write(100, [put('b9', 'end2')]),
];

const store = { a1: 'v6', a2: 'v4', b1: 'v5', b2: 'v8', a9: 'end', b9: 'end2' };

/** A stream that is told these changes, each with its cursor. */
function stream(
  listener: string,
  kind: Stream['kind'],
  told: readonly Told[],
  more: Partial<Stream> = {},
): Stream {
  const positions = [...(more.since ?? ['', ''])];
  const cursors = told.map((one, i) => {
    positions[one.partition] = one.position;
    return { told: i + 1, positions: [...positions] };
  });
  return { listener, kind, told, cursors, ...more };
}

const [first, second] = log as [Logged[], Logged[]];
/** As they may come: each partition in order, the two mixed. */
const told = [...second.slice(0, 2), ...first.slice(0, 4), ...second.slice(2), ...first.slice(4)];
const since = [first[1]!.position, second[1]!.position];
const ends = [first.at(-1)!.position, second.at(-1)!.position];
const early = { a1: 'v3', b1: 'v2' };
const later = [...first.slice(2), ...second.slice(1)];

/** The store's answer to who was told of a change. */
const read = ({ partition, position, key }: Told, id: string | null) => ({ partition, position, key, id });

const history: History = {
  writes,
  log,
  store,
  applied: [first.map((one, i) => ({ ...one, effect: i < 3 ? 1 : 2 })), second],
  streams: [
    stream('follower', 'follow', told.slice(0, 5), { reads: [read(first[0]!, 'v3'), read(first[1]!, 'v3')] }),
    stream('follower', 'follow', told.slice(5), { since: [first[2]!.position, second[1]!.position] }),
    stream('replayer', 'replay', [...first.slice(2, 4), ...second.slice(2, 3)], { since }),
    stream('replayer', 'replay', [], { since: ends }),
    stream('snapshot', 'snapshot', later, { snapshot: early }),
    {
      ...stream('idle', 'idle', []),
      cursors: [
        { told: 0, positions: ['', since[1]!] },
        { told: 0, positions: ends },
      ],
    },
  ],
};

test('a history that keeps every promise passes', () => {
  expect(check(history)).toEqual([]);
});

function withLog(...entries: readonly Logged[][]): History {
  return { ...history, log: entries, applied: entries, streams: [] };
}

function withWrites(more: readonly Write[]): History {
  return { ...history, writes: more };
}

function withTold(
  seen: readonly Told[],
  kind: Stream['kind'] = 'follow',
  more: Partial<Stream> = {},
): History {
  return { ...history, streams: [stream('listener', kind, seen, more)] };
}

function withApplied(seen: readonly Told[]): History {
  return { ...history, applied: [seen, second] };
}

const without = <T>(list: readonly T[], ...at: number[]) => list.filter((_, i) => !at.includes(i));
const swapped = <T>(list: readonly T[], at: number) => [
  ...list.slice(0, at),
  list[at + 1]!,
  list[at]!,
  ...list.slice(at + 2),
];

const planted: readonly (readonly [string, Property, string, History])[] = [
  ['a log that is not in order', 'ordered', 'log', withLog(swapped(first, 0), second)],
  [
    'a write that was acknowledged before another began, and stands behind it',
    'ordered',
    'log',
    withWrites([...without(writes, 0), { ...writes[0]!, invoked: 200, ended: 210 }]),
  ],
  ['a log with a record twice', 'unique', 'log', withLog([...first.slice(0, 2), ...first.slice(1)], second)],
  [
    'a change appended again, at a new position',
    'reliable',
    'log',
    withLog([...first.slice(0, 2), change(3.5 * 2, 'a1', 'v3', 'v1'), ...first.slice(5)], second),
  ],
  ['a log with half a transaction', 'atomic', 'log', withLog(without(first, 4, 5), second)],
  [
    'a batch in two transactions',
    'atomic',
    'log',
    withLog(first, [second[0]!, change(6, 'b1', 'v5', 'v2'), ...second.slice(2)]),
  ],
  ['a log without an acknowledged write', 'reliable', 'log', withLog(without(first, 1), second)],
  ['a log without an acknowledged delete', 'reliable', 'log', withLog(without(first, 5), second)],
  [
    'a log with a write that failed',
    'reliable',
    'log',
    withWrites([...without(writes, 7), write(80, [put('b2', 'v8')], 'failed')]),
  ],
  ['a log with a write that nobody made', 'reliable', 'log', withWrites(without(writes, 7))],
  ['a log with a delete that nobody made', 'reliable', 'log', withWrites(without(writes, 6))],
  ['a store that is not what the log says', 'snapshot', 'log', { ...history, store: { ...store, b2: 'v9' } }],
  ['a store with what the log has not', 'snapshot', 'log', { ...history, store: { ...store, c: 'x' } }],
  ['an effect twice', 'unique', 'consumer', withApplied([...first.slice(0, 3), ...first.slice(2)])],
  ['an effect missing', 'reliable', 'consumer', withApplied(without(first, 2))],
  ['the last effect missing', 'reliable', 'consumer', withApplied(first.slice(0, -1))],
  ['effects out of order', 'ordered', 'consumer', withApplied(swapped(first, 1))],
  ['an effect of half a transaction', 'atomic', 'consumer', withApplied(without(first, 4))],
  [
    'two effects of one transaction',
    'atomic',
    'consumer',
    withApplied(first.map((one, i) => ({ ...one, effect: i < 4 ? 1 : 2 }))),
  ],
  ['a change told twice', 'unique', 'listener', withTold([...told.slice(0, 3), ...told.slice(2)])],
  ['a change missing in the middle', 'reliable', 'listener', withTold(without(told, 4))],
  ['a change missing at the end', 'reliable', 'listener', withTold(told.slice(0, -1))],
  ['changes told out of order', 'ordered', 'listener', withTold(swapped(told, 2))],
  [
    'a transaction with another in its midst',
    'atomic',
    'listener',
    withTold([...second, ...first.slice(0, 4), first[5]!, first[4]!, first[6]!]),
  ],
  [
    'a change that the log has not',
    'reliable',
    'listener',
    withTold([...told, change(11, 'a1', 'v11', 'v6')]),
  ],
  [
    'a change told with another value',
    'reliable',
    'listener',
    withTold([{ ...told[0]!, id: 'v0' }, ...told.slice(1)]),
  ],
  ['a listener refused', 'resumable', 'listener', withTold(told, 'follow', { refused: 'PositionGone' })],
  [
    'a listener told that its position is gone, where nothing was lost',
    'resumable',
    'listener',
    withTold(told, 'follow', { gone: true }),
  ],
  [
    'a replay with a gap at its start',
    'resumable',
    'listener',
    withTold(first.slice(3, 5), 'replay', { since }),
  ],
  ['a replay with a gap', 'reliable', 'listener', withTold(without(first.slice(2), 1), 'replay', { since })],
  ['a replay of what was before', 'resumable', 'listener', withTold(first.slice(1, 4), 'replay', { since })],
  [
    'a cursor before what it came with',
    'resumable',
    'listener',
    {
      ...history,
      streams: [{ ...stream('listener', 'follow', told), cursors: [{ told: 3, positions: ['', ''] }] }],
    },
  ],
  [
    'a bookmark that goes back',
    'bookmarkable',
    'listener',
    {
      ...history,
      streams: [
        {
          ...stream('listener', 'idle', []),
          cursors: [ends, since, ends].map((positions) => ({ told: 0, positions })),
        },
      ],
    },
  ],
  [
    'bookmarks that stop before the end',
    'bookmarkable',
    'listener',
    {
      ...history,
      streams: [{ ...stream('listener', 'idle', []), cursors: [{ told: 0, positions: since }] }],
    },
  ],
  ['no bookmark at all', 'bookmarkable', 'listener', withTold([], 'idle')],
  ['a listener that is told what is not its own', 'reliable', 'listener', withTold(told, 'idle')],
  [
    'a gap behind a snapshot',
    'snapshot',
    'listener',
    withTold(without(later, 1), 'snapshot', { snapshot: early }),
  ],
  [
    'a change told that was in the snapshot',
    'snapshot',
    'listener',
    withTold([first[1]!, ...later], 'snapshot', { snapshot: early }),
  ],
  [
    'an object missing in a snapshot',
    'snapshot',
    'listener',
    withTold(later, 'snapshot', { snapshot: { a1: 'v3' } }),
  ],
  [
    'an object read as it was before the change',
    'visible',
    'listener',
    withTold(told, 'follow', { reads: [read(first[1]!, 'v1')] }),
  ],
  [
    'an object not found before its delete',
    'visible',
    'listener',
    withTold(told, 'follow', { reads: [read(first[3]!, null)] }),
  ],
  ['no snapshot', 'snapshot', 'listener', withTold(told, 'snapshot')],
  [
    'the last change missing behind a snapshot',
    'snapshot',
    'listener',
    withTold(later.slice(0, -1), 'snapshot', { snapshot: early }),
  ],
];

test.each(planted)('%s is found', (_name, property, observer, wrong) => {
  const found = check(wrong).map((violation) => `${violation.property} ${violation.observer}`);
  expect(found).toContain(`${property} ${observer}`);
});

/** As if the slot had been lost behind transaction 5: what comes after it has a new epoch. */
function newEpoch(entries: readonly Logged[]): Logged[] {
  return entries.map((entry) =>
    entry.position.slice(9, 25) > first[4]!.position.slice(9, 25)
      ? { ...entry, position: entry.position.replace('00000001', '00000002') }
      : entry,
  );
}

test('between two epochs changes may be missing, and nowhere else', () => {
  const epochs = { ...history, streams: [], log: log.map(newEpoch), applied: log.map(newEpoch) };
  expect(check(epochs, { gaps: true })).toEqual([]);
  expect(check(epochs)).toMatchObject([{ property: 'resumable', observer: 'log' }]);
  // Transaction 7 is the first of the new epoch: it may as well have been lost.
  const lost = without(newEpoch(first), 5);
  const missing = { ...epochs, log: [lost, newEpoch(second)], applied: [lost, newEpoch(second)] };
  expect(check(missing, { gaps: true })).toEqual([]);
  const early = without(newEpoch(first), 1);
  const wrong = { ...epochs, log: [early, newEpoch(second)], applied: [early, newEpoch(second)] };
  const found = check(wrong, { gaps: true });
  expect(found.map(({ property }) => property)).toContain('reliable');
});
