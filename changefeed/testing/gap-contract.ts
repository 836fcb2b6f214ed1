import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isCongerError } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import { type Broadcast, startBroadcast } from '../broadcast.ts';
import { encodeCursor } from '../feeds/cursor.ts';
import type { LogReader, LogWriter, Reading } from '../types.ts';
import type { LogUnderTest } from './log-contract.ts';
import { Member } from './member.ts';
import { record, records, Seen } from './records.ts';

const change = {
  v: 1,
  bucket: 'things',
  key: 'k',
  op: 'put',
  etag: 'e',
  request_id: null,
  traceparent: null,
  value: {},
  previous: null,
};

/** What every log promises about records that it does not hold any more (types.ts), as tests. */
export function gapContract(name: string, setup: () => Promise<LogUnderTest>, timeout = 60_000): void {
  describe(`${name}, of which records are gone`, { timeout }, () => {
    let log: LogUnderTest;
    let open: { close(): Promise<void> }[];

    beforeEach(async () => {
      open = [];
      log = await setup();
    }, timeout);

    afterEach(async () => {
      await Promise.all(open.map((one) => one.close().catch(() => undefined)));
      await log.close();
    }, timeout);

    async function writer(): Promise<LogWriter> {
      const one = await log.writer();
      open.push(one);
      await one.open();
      return one;
    }

    async function join(member: Member): Promise<{ reader: LogReader; reading: Reading }> {
      const reader = await log.reader();
      open.push(reader);
      return { reader, reading: await reader.join('group', member.name, member) };
    }

    async function broadcast(): Promise<Broadcast> {
      const reader = await log.reader();
      const one = await startBroadcast({ reader, log: silentLogger() });
      open.push(reader, { close: () => one.stop() });
      return one;
    }

    const rounds = (first: number, count: number) =>
      records(1 + first * log.partitions, count * log.partitions, log.partitions);
    const all = () => Array.from({ length: log.partitions }, (_, partition) => partition);

    /** A member that has read ten records of each partition, and is away. */
    async function away(one: LogWriter): Promise<Member> {
      await one.append(rounds(0, 10));
      const member = new Member('a', log.partitions);
      const { reading } = await join(member);
      await member.until(() => member.count === 10 * log.partitions);
      await reading.stop();
      expect(member.gaps).toEqual([]);
      return member;
    }

    test('a member that was away for longer than records are kept is told before what is left', async () => {
      const one = await writer();
      const before = await away(one);
      await one.append(rounds(10, 30));
      await log.drop(20);
      const after = new Member('b', log.partitions, before.state);
      await join(after);
      await after.until(() => after.count === 20 * log.partitions);
      expect(after.gaps.toSorted((a, b) => a.partition - b.partition)).toEqual(
        all().map((partition) => ({ partition, after: 0 })),
      );
      for (const partition of all()) {
        const left = rounds(20, 20).filter((each) => each.partition === partition);
        expect(after.positions(partition)).toEqual(left.map((each) => each.position));
      }
    });

    test('a broadcast takes for its own what the log shows that it has read, however old a cursor says it is', async () => {
      const cursor = (positions: readonly string[], time = 0) =>
        encodeCursor({ time, positions, snapshot: '' });
      const start = cursor(all().map(() => ''));
      expect((await broadcast()).reaches(start)).toBe(true);
      const one = await writer();
      const written = rounds(0, 5).map((each) => ({ ...each, body: Buffer.from(JSON.stringify(change)) }));
      await one.append(written);
      expect((await broadcast()).reaches(start)).toBe(true);
      await log.drop(2);
      const later = await broadcast();
      const nth = (n: number) =>
        all().map((p) => written.filter(({ partition }) => partition === p)[n]?.position ?? '');
      const now = Date.now();
      expect(later.reaches(cursor(nth(3), now))).toBe(true);
      // Not even a young cursor: records may have been dropped for their number.
      for (const gone of [start, cursor(nth(1), now)])
        await expect(later.resume(gone)).rejects.toMatchObject({ code: 'PositionGone' });
    });

    test('where just what was read is gone, nobody is told', async () => {
      const one = await writer();
      const before = await away(one);
      await one.append(rounds(10, 30));
      await log.drop(30);
      const after = new Member('b', log.partitions, before.state);
      await join(after);
      await after.until(() => after.count === 30 * log.partitions);
      await one.append(rounds(40, 1));
      await after.until(() => after.count === 31 * log.partitions);
      expect(after.gaps).toEqual([]);
    });

    test('a new member begins at the oldest record, and has missed nothing', async () => {
      const one = await writer();
      await one.append(rounds(0, 30));
      await log.drop(10);
      const member = new Member('a', log.partitions);
      await join(member);
      await member.until(() => member.count === 10 * log.partitions);
      expect(member.gaps).toEqual([]);
    });

    test('a member that stands still is told when it goes on', async () => {
      const one = await writer();
      const member = new Member('a', log.partitions);
      member.refuse = 1;
      await join(member);
      await one.append(rounds(0, 1));
      await member.until(() => member.refused > 0 && member.count === log.partitions - 1);
      // Far more than is fetched at once.
      const body = JSON.stringify({ pad: 'x'.repeat(4_000) });
      const behind = Array.from({ length: 2_000 }, (_, i) => record(1_000 + i, 1, body));
      for (let n = 0; n < behind.length; n += 200) await one.append(behind.slice(n, n + 200));
      await log.drop(10);
      member.refuse = undefined;
      const all = behind.map(({ position }) => position);
      await member.until(() => member.positions(1).at(-1) === all.at(-1));
      const [gap, ...more] = member.gaps;
      expect(more).toEqual([]);
      expect(gap?.partition).toBe(1);
      const read = member.positions(1).slice(1);
      const before = (gap?.after ?? 1) - 1;
      expect(read.length).toBeLessThan(all.length);
      expect(read).toEqual([...all.slice(0, before), ...all.slice(before - read.length)]);
    });

    test('a log that was emptied is another log', async () => {
      const first = await writer();
      const before = await away(first);
      await first.close();
      await log.wipe();
      const one = await writer();
      // More than the member had read, so that there is something else where it had come to.
      await one.append(rounds(10, 25));
      const after = new Member('b', log.partitions, before.state);
      await join(after);
      await after.until(() => after.count === 25 * log.partitions);
      expect(after.gaps.map(({ partition }) => partition).toSorted()).toEqual(all());
      expect(after.gaps.every((gap) => gap.after === 0)).toBe(true);
    });

    test('a place in a log that was emptied is none in the next one', async () => {
      const first = await writer();
      await first.append(rounds(0, 10));
      await first.close();
      const reader = await log.reader();
      open.push(reader);
      const [last] = rounds(9, 1).filter(({ partition }) => partition === 2);
      const place = last?.position ?? '';
      expect((await reader.locate(2, place)).position).toBe(place);
      await log.wipe();
      await log.cut();
      const one = await writer();
      const gone = async () => {
        for (;;) {
          const error = await reader.locate(2, place).catch((error: unknown) => error);
          if (isCongerError(error, 'PositionGone')) return;
          // Connections that were cut; brokers may take a while to know the new topic.
          if (!(error instanceof Error)) throw new Error('the place was found');
          await sleep(20);
        }
      };
      await gone();
      await one.append(rounds(10, 25));
      await gone();
      await reader.locate(2, rounds(12, 1).find(({ partition }) => partition === 2)?.position ?? '');
    });

    test('a log that is emptied under its readers is another log', async () => {
      const first = await writer();
      const member = new Member('a', log.partitions);
      await join(member);
      const reader = await log.reader();
      open.push(reader);
      const seen = new Seen();
      const gaps: number[] = [];
      await reader.readAll(100, seen.take, (partition) => void gaps.push(partition));
      await first.append(rounds(0, 10));
      await member.until(() => member.count === 10 * log.partitions);
      await seen.until(() => seen.count === 10 * log.partitions);
      await first.close();
      await log.wipe();
      await log.cut();
      const one = await writer();
      await one.append(rounds(10, 25));
      await seen.until(() => seen.count === 35 * log.partitions);
      await member.until(() => member.count === 35 * log.partitions);
      expect(gaps.toSorted()).toEqual(all());
      expect(new Set(member.gaps.map(({ partition }) => partition))).toEqual(new Set(all()));
      expect(member.gaps.every((gap) => gap.after === 10)).toBe(true);
    });

    test('how much lies behind a cursor', async () => {
      const one = await writer();
      const member = await away(one);
      const reader = await log.reader();
      open.push(reader);
      const cursor = (partition: number) =>
        member.state.cursors.get(partition) ?? { position: '', offset: '' };
      const cursors = new Map([
        [0, cursor(0)],
        [2, cursor(2)],
        [3, { position: '', offset: '' }],
      ]);
      expect(await reader.behind(cursors)).toEqual(
        new Map([
          [0, 0],
          [2, 0],
          [3, 10],
        ]),
      );
      await one.append(rounds(10, 7));
      expect(await reader.behind(cursors)).toEqual(
        new Map([
          [0, 7],
          [2, 7],
          [3, 17],
        ]),
      );
      expect(await reader.behind(new Map())).toEqual(new Map());
    });
  });
}
