import { AssignerProtocol } from 'kafkajs';
import { expect, test } from 'vitest';
import { divide, stickyAssigner } from './assigner.ts';

function sizes(shares: ReadonlyMap<string, readonly number[]>): number[] {
  return [...shares.values()].map((share) => share.length).sort();
}

function all(shares: ReadonlyMap<string, readonly number[]>): number[] {
  return [...shares.values()].flat().sort((a, b) => a - b);
}

test('every partition has one owner, and shares differ by one at most, whatever members claim', () => {
  const wild = new Map([
    ['a', [0, 1, 2, 3, 4, 5, 6, 7, 99]],
    ['b', [3, 3, 3]],
    ['c', []],
  ]);
  const shares = divide(8, wild);
  expect(all(shares)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(sizes(shares)).toEqual([2, 3, 3]);
});

test('who joins is given only what must move', () => {
  const shares = divide(
    8,
    new Map<string, number[]>([
      ['new', []],
      ['a', [0, 1, 2, 3]],
      ['b', [4, 5, 6, 7]],
    ]),
  );
  expect(shares.get('new')).toHaveLength(2);
  for (const [name, had] of [
    ['a', [0, 1, 2, 3]],
    ['b', [4, 5, 6, 7]],
  ] as const) {
    for (const partition of shares.get(name) ?? []) expect(had).toContain(partition);
  }
});

test('who stays keeps all of it when another leaves', () => {
  const shares = divide(
    8,
    new Map([
      ['a', [0, 5, 2]],
      ['b', [1, 3, 7]],
    ]),
  );
  expect(shares.get('a')).toEqual(expect.arrayContaining([0, 5, 2]));
  expect(shares.get('b')).toEqual(expect.arrayContaining([1, 3, 7]));
  expect(sizes(shares)).toEqual([4, 4]);
});

test('there may be more members than partitions', () => {
  const shares = divide(
    2,
    new Map<string, number[]>([
      ['a', []],
      ['b', [1]],
      ['c', [0]],
      ['d', []],
    ]),
  );
  expect(shares.get('b')).toEqual([1]);
  expect(shares.get('c')).toEqual([0]);
  expect(sizes(shares)).toEqual([0, 0, 1, 1]);
});

test('claims travel through the group protocol; a member that says nothing readable has none', async () => {
  const make = (owned: number[]) =>
    stickyAssigner('t', 4, () => owned)({} as Parameters<ReturnType<typeof stickyAssigner>>[0]);
  const metadata = (owned: number[]) => make(owned).protocol({ topics: ['t'] }).metadata;
  const garbled = metadata([0]);
  garbled.fill('x', garbled.length - 3);
  const assignments = await make([]).assign({
    topics: ['t'],
    members: [
      { memberId: 'a', memberMetadata: garbled },
      { memberId: 'b', memberMetadata: metadata([3, 0]) },
    ],
  });
  const decoded = assignments.map(({ memberId, memberAssignment }) => [
    memberId,
    AssignerProtocol.MemberAssignment.decode(memberAssignment)?.assignment.t,
  ]);
  expect(new Map(decoded as [string, number[]][])).toEqual(
    new Map([
      ['b', [3, 0]],
      ['a', [1, 2]],
    ]),
  );
});
