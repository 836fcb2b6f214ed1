import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { LogReader, LogRecord, LogWriter, Position } from '../types.ts';
import { WHOLE_RECORDS } from '../whole.ts';
import { Member } from './member.ts';
import { record, records, Seen, transaction } from './records.ts';

/** A fresh, empty log, and what its tests need to do to it. */
export interface LogUnderTest {
  /** At least 4. */
  readonly partitions: number;
  /** A writer that is yet to be opened. The test closes it. */
  writer(): Promise<LogWriter>;
  /** The test closes it. */
  reader(): Promise<LogReader>;
  /** A reader whose process dies at `crash`: it says no goodbye, and is not heard of again. */
  mortal(): Promise<{ readonly reader: LogReader; crash(): Promise<void> }>;
  /** Drops the oldest records of each partition, as retention does, but for the last `kept`. */
  drop(kept: number): Promise<void>;
  /** Empties the log, as other hands might. Writers are opened anew behind it. */
  wipe(): Promise<void>;
  /** Breaks the connections of all readers; new ones may be made. */
  cut(): Promise<void>;
  close(): Promise<void>;
}

/** Comparing a Buffer byte by byte takes its time. */
function asText(one: LogRecord) {
  return { ...one, body: one.body.toString() };
}

/** What every log promises (types.ts), as tests. */
export function logContract(name: string, setup: () => Promise<LogUnderTest>, timeout = 60_000): void {
  describe(`${name} as a log`, { timeout }, () => {
    let log: LogUnderTest;
    let open: (() => Promise<void>)[];

    beforeEach(async () => {
      open = [];
      log = await setup();
    }, timeout);

    afterEach(async () => {
      await Promise.all(open.map((close) => close().catch(() => undefined)));
      await log.close();
    }, timeout);

    async function writer(): Promise<LogWriter> {
      const one = await log.writer();
      open.push(() => one.close());
      return one;
    }

    async function reader(): Promise<LogReader> {
      const one = await log.reader();
      open.push(() => one.close());
      return one;
    }

    function expected(all: readonly LogRecord[], partition: number): string[] {
      return all.filter((one) => one.partition === partition).map((one) => one.position);
    }

    function expectAll(seen: Seen, all: readonly LogRecord[]): void {
      for (let p = 0; p < log.partitions; p++) expect(seen.positions(p)).toEqual(expected(all, p));
    }

    test('an empty log has empty tails, and reading it is done at once', async () => {
      const one = await writer();
      expect(await one.open()).toEqual(Array.from({ length: log.partitions }, () => ''));
      await one.append([]);
      const seen = new Seen();
      await (await reader()).readAll(10, seen.take);
      expect(seen.count).toBe(0);
    });

    test('what was appended is read as it was, in order, and the next writer finds the tails', async () => {
      const one = await writer();
      await one.open();
      const all = [
        ...records(1, 500, log.partitions),
        record(501, 1, JSON.stringify({ big: 'ß'.repeat(250_000) })),
        ...records(502, 300, log.partitions),
      ];
      await one.append(all.slice(0, 100));
      await one.append(all.slice(100));
      await one.close();

      const seen = new Seen();
      await (await reader()).readAll(10_000, seen.take);
      expectAll(seen, all);
      for (const [partition, got] of seen.byPartition) {
        expect(got.map(asText)).toEqual(all.filter((each) => each.partition === partition).map(asText));
      }
      const tails = await (await writer()).open();
      expect(tails).toEqual(tails.map((_, p) => expected(all, p).at(-1)));
    });

    test('a reader begins as many records before the end as it asks for', async () => {
      const one = await writer();
      await one.open();
      const all = records(1, 40 * log.partitions, log.partitions);
      await one.append(all);
      for (const tail of [0, 1, 7]) {
        const seen = new Seen();
        const reading = await (await reader()).readAll(tail, seen.take);
        for (let p = 0; p < log.partitions; p++) {
          expect(seen.positions(p)).toEqual(expected(all, p).slice(40 - tail));
        }
        await reading.stop();
      }
    });

    test('what comes later reaches every reader once, over broken connections', async () => {
      const one = await writer();
      await one.open();
      const all = records(1, 1000, log.partitions);
      await one.append(all.slice(0, 100));
      const [a, b] = [new Seen(), new Seen()];
      await (await reader()).readAll(1000, a.take);
      await (await reader()).readAll(1000, async (batch) => {
        await new Promise((resolve) => setImmediate(resolve));
        b.take(batch);
      });
      for (let i = 100; i < all.length; i += 50) {
        if (i % 300 === 100) await log.cut();
        await one.append(all.slice(i, i + 50));
      }
      await Promise.all([a, b].map((seen) => seen.until(() => seen.count >= all.length)));
      expectAll(a, all);
      expectAll(b, all);
    });

    /** All that a partition holds behind a position, page by page. */
    async function readOn(from: LogReader, partition: number, position: Position): Promise<string[]> {
      const positions: string[] = [];
      let page = await from.readFrom(partition, await from.locate(partition, position));
      while (page !== undefined) {
        expect(page.partition).toBe(partition);
        expect(page.records.length).toBeGreaterThan(0);
        expect(page.cursor.position).toBe(page.records.at(-1)?.position);
        positions.push(...page.records.map((one) => one.position));
        page = await from.readFrom(partition, page.cursor);
      }
      return positions;
    }

    test('from any position on, pages have everything behind it, as it was', async () => {
      const one = await writer();
      await one.open();
      const all = [...records(1, 2_000, log.partitions), ...records(2_001, 3_000, 1)];
      const big = record(5_001, 0, JSON.stringify({ big: 'x'.repeat(1_500_000) }));
      all.push(big, ...records(5_002, 5, 1));
      for (let i = 0; i < all.length; i += 500) await one.append(all.slice(i, i + 500));
      const from = await reader();
      for (const partition of [0, 3]) {
        const there = expected(all, partition);
        for (const at of [0, 1, 100, 250, there.length - 7, there.length - 1, there.length]) {
          const position = there[at - 1] ?? '';
          expect(await readOn(from, partition, position)).toEqual(there.slice(at));
        }
      }
      // A position of another partition is a place in this one as well.
      const other = expected(all, 2)[10] ?? '';
      const behind = expected(all, 3).filter((position) => position > other);
      expect(await readOn(from, 3, other)).toEqual(behind);
      const page = await from.readFrom(3, await from.locate(3, ''));
      const first = all.filter((each) => each.partition === 3).slice(0, page?.records.length);
      expect(page?.records.map(asText)).toEqual(first.map(asText));
      await one.append(records(6_000, 2, 1));
      const rest = await readOn(from, 0, big.position);
      expect(rest).toHaveLength(7);
    });

    test('a page from before what the log holds is refused, and from within it is not', async () => {
      const one = await writer();
      await one.open();
      const all = records(1, 100 * log.partitions, log.partitions);
      await one.append(all);
      const from = await reader();
      const there = expected(all, 1);
      const early = await from.locate(1, there[9] ?? '');
      await log.drop(40);
      await expect(from.readFrom(1, early)).rejects.toMatchObject({ code: 'PositionGone' });
      for (const position of ['', there[0] ?? '', there[58] ?? '']) {
        await expect(from.locate(1, position)).rejects.toMatchObject({ code: 'PositionGone' });
      }
      expect(await readOn(from, 1, there[60] ?? '')).toEqual(there.slice(61));
      expect(await readOn(from, 1, there[99] ?? '')).toEqual([]);
    });

    test('pages go on after connections break', async () => {
      const one = await writer();
      await one.open();
      const all = records(1, 20 * log.partitions, log.partitions);
      await one.append(all);
      const from = await reader();
      await from.locate(1, '');
      await log.cut();
      let read: string[] | undefined;
      while (read === undefined) {
        read = await readOn(from, 1, '').catch(() => sleep(20));
      }
      expect(read).toEqual(expected(all, 1));
    });

    test('what a transaction has in a partition comes in one batch, to everyone', async () => {
      const one = await writer();
      await one.open();
      const member = new Member('a', log.partitions);
      await (await reader()).join('group', 'a', member);
      const seen = new Seen();
      await (await reader()).readAll(0, seen.take);
      const both = [seen, member];
      const count = 1_300;
      const large = transaction(2, 1, count);
      await one.append([record(1, 1), ...large.slice(0, 900), ...transaction(3, 0, 2)]);
      await Promise.all(both.map((all) => all.until(() => all.count === 3)));
      // A reader that begins now has read all there is, and waits for the rest.
      const late = new Seen();
      await (await reader()).readAll(10_000, late.take);
      await one.append([...large.slice(900), ...transaction(4, 1, 3)]);
      await Promise.all([...both, late].map((all) => all.until(() => all.count === count + 6)));
      for (const all of [...both, late]) {
        expect(all.positions(1)).toEqual(expected([record(1, 1), ...large, ...transaction(4, 1, 3)], 1));
        expect(all.sizes.get(0)).toEqual([2]);
        // Where one batch ends and the next begins is open, but for that no transaction is cut.
        const ends = [0, 1, 1 + count, 4 + count];
        let sum = 0;
        for (const size of all.sizes.get(1) ?? []) {
          sum += size;
          expect(ends).toContain(sum);
        }
      }
    });

    test('a transaction of which the rest never comes is handed over before what comes behind it', async () => {
      const one = await writer();
      await one.open();
      const torn = transaction(1, 2, 500).slice(0, 300);
      await one.append(torn);
      const seen = new Seen();
      await (await reader()).readAll(10_000, seen.take);
      expect(seen.count).toBe(0);
      await one.append([record(2, 2)]);
      await seen.until(() => seen.count === 301);
      expectAll(seen, [...torn, record(2, 2)]);
    });

    test('a transaction that is too large comes in parts, before it is complete', async () => {
      const one = await writer();
      await one.open();
      const seen = new Seen();
      await (await reader()).readAll(0, seen.take);
      const all = transaction(1, 3, WHOLE_RECORDS + 1_000);
      const most = all.slice(0, WHOLE_RECORDS + 500);
      for (let i = 0; i < most.length; i += 2_000) await one.append(most.slice(i, i + 2_000));
      await seen.until(() => seen.count === most.length);
      expect(seen.sizes.get(3)?.[0]).toBeGreaterThanOrEqual(WHOLE_RECORDS);
      await one.append(all.slice(most.length));
      await seen.until(() => seen.count === all.length);
      expectAll(seen, all);
    });

    test('a reading that is stopped is told nothing more', async () => {
      const one = await writer();
      await one.open();
      const [stopped, going] = [new Seen(), new Seen()];
      const both = await reader();
      const reading = await both.readAll(0, stopped.take);
      await both.readAll(0, going.take);
      await reading.stop();
      await one.append(records(1, 20, log.partitions));
      await going.until(() => going.count === 20);
      expect(stopped.count).toBe(0);
    });

    test('a member goes on from its cursors, or from the start', async () => {
      const one = await writer();
      await one.open();
      const all = records(1, 60 * log.partitions, log.partitions);
      await one.append(all.slice(0, 30 * log.partitions));

      const first = new Member('a', log.partitions);
      const reading = await (await reader()).join('group', 'a', first);
      await first.until(() => first.count === 30 * log.partitions);
      await reading.stop();
      expect(first.owned.size).toBe(0);

      await one.append(all.slice(30 * log.partitions));
      const second = new Member('b', log.partitions, first.state);
      await (await reader()).join('group', 'b', second);
      await second.until(() => second.count === 30 * log.partitions);
      for (let p = 0; p < log.partitions; p++) {
        expect([...first.positions(p), ...second.positions(p)]).toEqual(expected(all, p));
      }
    });

    test('members share the partitions evenly; who leaves gives them up', async () => {
      const one = await writer();
      await one.open();
      const a = new Member('a', log.partitions);
      const b = new Member('b', log.partitions, a.state);
      await (await reader()).join('group', 'a', a);
      await a.until(() => a.owned.size === log.partitions);
      const leaving = await (await reader()).join('group', 'b', b);
      const half = log.partitions / 2;
      await a.until(() => a.owned.size === half);
      await b.until(() => b.owned.size === half);
      expect(new Set([...a.owned, ...b.owned]).size).toBe(log.partitions);
      const all = records(1, 10 * log.partitions, log.partitions);
      await one.append(all);
      await a.until(() => a.count === 10 * half);
      await b.until(() => b.count === 10 * half);
      await leaving.stop();
      await a.until(() => a.owned.size === log.partitions);
    });

    test('members are told that others come and go, also where no partition moves', async () => {
      const one = await reader();
      const names = Array.from({ length: log.partitions }, (_, n) => `m${n}`);
      const first = new Member('m0', log.partitions);
      const members = names.map((name, n) =>
        n === 0 ? first : new Member(name, log.partitions, first.state),
      );
      await Promise.all(members.map((member) => one.join('group', member.name, member)));
      await Promise.all(members.map((member) => member.until(() => member.owned.size === 1)));
      const told = members.map(({ regroupings }) => regroupings);
      const mortal = await log.mortal();
      const idle = new Member('z', log.partitions, first.state);
      await mortal.reader.join('group', 'z', idle);
      await idle.until(() => idle.regroupings > 0);
      await Promise.all(members.map((member, n) => member.until(() => member.regroupings > (told[n] ?? 0))));
      // What is still told of its coming is told by then.
      await sleep(500);
      const before = members.map(({ regroupings }) => regroupings);
      await mortal.crash();
      await Promise.all(
        members.map((member, n) => member.until(() => member.regroupings > (before[n] ?? 0))),
      );
      expect(members.map(({ owned }) => owned.size)).toEqual(names.map(() => 1));
    });

    test('groups know nothing of each other', async () => {
      const one = await writer();
      await one.open();
      const [a, b] = [new Member('same', log.partitions), new Member('same', log.partitions)];
      const both = await reader();
      await both.join('one', 'same', a);
      await both.join('two', 'same', b);
      await one.append(records(1, 20, log.partitions));
      await a.until(() => a.count === 20);
      await b.until(() => b.count === 20);
    });

    test('when a member crashes the others take over behind what it had done', async () => {
      const one = await writer();
      await one.open();
      const a = new Member('a', log.partitions);
      const b = new Member('b', log.partitions, a.state);
      const c = new Member('c', log.partitions, a.state);
      const mortal = await log.mortal();
      open.push(() => mortal.reader.close());
      await mortal.reader.join('group', 'a', a);
      await a.until(() => a.owned.size === log.partitions);
      await (await reader()).join('group', 'b', b);
      await (await reader()).join('group', 'c', c);
      await b.until(() => b.owned.size > 0);
      await c.until(() => c.owned.size > 0);
      const all = records(1, 20 * log.partitions, log.partitions);
      await one.append(all.slice(0, 10 * log.partitions));
      await mortal.crash();
      a.dead = true;
      await one.append(all.slice(10 * log.partitions));
      const done = () =>
        b.owned.size + c.owned.size === log.partitions && a.state.history.length === all.length;
      await Promise.race([b.until(done), c.until(done)]);
      for (let p = 0; p < log.partitions; p++) {
        const order = a.state.history.filter((one) => one.partition === p).map((one) => one.position);
        expect(order).toEqual(expected(all, p));
      }
    });

    test('a batch that is not taken comes again, and holds up no other partition', async () => {
      const one = await writer();
      await one.open();
      const a = new Member('a', log.partitions);
      a.refuse = 2;
      await (await reader()).join('group', 'a', a);
      await a.until(() => a.owned.size === log.partitions);
      const all = records(1, 5 * log.partitions, log.partitions);
      await one.append(all);
      await a.until(() => a.count === 5 * (log.partitions - 1) && a.refused > 1);
      a.refuse = undefined;
      await a.until(() => a.count === all.length);
      expect(a.positions(2)).toEqual(expected(all, 2));
    });

    test('a member whose connections break comes back', async () => {
      const one = await writer();
      await one.open();
      const a = new Member('a', log.partitions);
      await (await reader()).join('group', 'a', a);
      await a.until(() => a.owned.size === log.partitions);
      const all = records(1, 30, log.partitions);
      await one.append(all.slice(0, 10));
      await a.until(() => a.count === 10);
      await log.cut();
      await one.append(all.slice(10));
      await a.until(() => a.state.history.length === 30);
      for (let p = 0; p < log.partitions; p++) {
        expect(a.state.history.filter((each) => each.partition === p).map((each) => each.position)).toEqual(
          expected(all, p),
        );
      }
    });

    test('a writer that was taken over changes nothing that readers see', async () => {
      const all = records(1, 40, log.partitions);
      const old = await writer();
      await old.open();
      await old.append(all.slice(0, 10));
      const young = await writer();
      const tails = await young.open();
      expect(tails).toEqual(tails.map((_, p) => expected(all.slice(0, 10), p).at(-1) ?? ''));

      // The old one wakes up in the middle of what the new one does again.
      await young.append(all.slice(10, 25));
      await old.append(all.slice(10, 20)).catch(() => undefined);
      await young.append(all.slice(25));
      await old.append(all.slice(20, 30)).catch(() => undefined);

      const seen = new Seen();
      await (await reader()).readAll(1000, seen.take);
      expectAll(seen, all);
      const pages = await reader();
      for (let p = 0; p < log.partitions; p++) {
        const there = expected(all, p);
        for (let at = 0; at <= there.length; at++) {
          expect(await readOn(pages, p, there[at - 1] ?? '')).toEqual(there.slice(at));
        }
      }
      await old.close();
      const next = await writer();
      expect(await next.open()).toEqual(tails.map((_, p) => expected(all, p).at(-1)));
    });
  });
}
