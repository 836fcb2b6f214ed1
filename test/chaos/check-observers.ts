import { FIRST_EPOCH } from '../../changefeed/position.ts';
import type { Position } from '../../changefeed/types.ts';
import { newestEpoch } from './check-log.ts';
import type { Property, Violation } from './checker.ts';
import { commitOf, type History, type Logged, type Stream, type Told } from './history.ts';

type Report = (property: Property, text: string) => void;

/** Judges the effects of the consumers: of every change one, in the log's order, and one for what a transaction has there. */
export function checkApplied({ log, applied }: History): Violation[] {
  const { violations, report } = reporter('consumer');
  for (const [partition, entries] of log.entries()) {
    const seen = applied[partition] ?? [];
    compare(entries, seen, true, report);
    for (const [i, one] of seen.entries()) {
      const before = seen[i - 1];
      if (before !== undefined && commitOf(before) === commitOf(one) && before.effect !== one.effect)
        report('atomic', `applied ${describe(one)} with another effect than ${describe(before)}`);
    }
  }
  return violations;
}

/** Judges all that one listener was told. */
export function checkListener(history: History, name: string, streams: readonly Stream[]): Violation[] {
  const { violations, report } = reporter(name);
  const oneEpoch = newestEpoch(history.log) === FIRST_EPOCH;
  for (const { refused, gone } of streams) {
    if (refused !== undefined) report('resumable', `was refused: ${refused}`);
    if (gone === true && oneEpoch) report('resumable', 'was told that its position is gone, and nothing was');
  }
  checkCursors(streams, report);
  checkReads(history, streams, report);
  switch (streams[0]?.kind) {
    case 'follow':
      for (const [partition, entries] of history.log.entries()) {
        const told = streams.flatMap((stream) => stream.told.filter((one) => one.partition === partition));
        compare(entries, told, true, report);
      }
      break;
    case 'replay':
      for (const stream of streams) checkReplay(history, stream, report);
      break;
    case 'snapshot':
      checkSnapshot(history, streams, report);
      break;
    case 'idle':
      checkIdle(history, streams, report);
      break;
    case undefined:
      break;
  }
  return violations;
}

/** What was read after a change was told is what that change left, or one behind it. */
function checkReads({ log }: History, streams: readonly Stream[], report: Report): void {
  for (const { partition, position, key, id } of streams.flatMap(({ reads }) => reads ?? [])) {
    const since = (log[partition] ?? []).filter((entry) => entry.key === key && entry.position >= position);
    if (!since.some((entry) => entry.id === id)) {
      report('visible', `was told of ${key} at ${position}, and read ${id ?? 'nothing'}`);
    }
  }
}

function reporter(observer: string): { violations: Violation[]; report: Report } {
  const violations: Violation[] = [];
  return { violations, report: (property, text) => violations.push({ property, observer, text }) };
}

/**
 * Compares what was seen of one partition with what there was to see.
 * @param toTheEnd whether the last of it must have been seen, too
 */
function compare(wanted: readonly Logged[], seen: readonly Told[], toTheEnd: boolean, report: Report): void {
  const known = new Map(wanted.map((entry) => [entry.position, entry]));
  const had = new Set<Position>();
  const closed = new Set<string>();
  let last: Told | undefined;
  for (const one of seen) {
    const entry = known.get(one.position);
    if (entry === undefined || !same(entry, one)) {
      report(
        'reliable',
        `was told ${describe(one)}, and the log has ${entry ? describe(entry) : 'no such change'}`,
      );
    }
    if (had.has(one.position)) report('unique', `was told ${describe(one)} twice`);
    else if (last !== undefined && one.position < last.position) {
      report('ordered', `was told ${describe(one)} after ${describe(last)}`);
    }
    had.add(one.position);
    if (last !== undefined && commitOf(last) !== commitOf(one)) {
      closed.add(commitOf(last));
      if (closed.has(commitOf(one)))
        report('atomic', `the changes of ${commitOf(one)} did not come together`);
    }
    last = one;
  }
  const end = toTheEnd ? undefined : last?.position;
  const due = wanted.filter(({ position }) => (end === undefined ? toTheEnd : position <= end));
  const missing = due.filter(({ position }) => !had.has(position));
  if (missing.length > 0) {
    report(
      'reliable',
      `was not told ${missing.length} of ${due.length} changes, first ${describe(missing[0]!)}`,
    );
  }
  const torn = missing.filter((entry) => seen.some((one) => commitOf(one) === commitOf(entry)));
  if (torn.length > 0)
    report('atomic', `was told a part of ${commitOf(torn[0]!)}, without ${describe(torn[0]!)}`);
}

/** A replay is told what comes behind its cursor, from the first change on; it may stop anywhere. */
function checkReplay({ log }: History, stream: Stream, report: Report): void {
  for (const [partition, entries] of log.entries()) {
    const since = stream.since?.[partition] ?? '';
    const told = stream.told.filter((one) => one.partition === partition);
    const early = told.filter(({ position }) => position <= since);
    if (early.length > 0) report('resumable', `went on behind ${since}, and was told ${describe(early[0]!)}`);
    const behind = entries.filter(({ position }) => position > since);
    const first = told[0];
    if (first !== undefined && behind[0] !== undefined && first.position > behind[0].position) {
      report(
        'resumable',
        `went on behind ${since}, and was told ${describe(first)} before ${describe(behind[0])}`,
      );
    }
    compare(
      behind,
      told.filter(({ position }) => position > since),
      false,
      report,
    );
  }
}

/** The snapshot, and the changes after it: each meets the state that it says it changed, and the end is the store. */
function checkSnapshot({ log, store }: History, streams: readonly Stream[], report: Report): void {
  const known = new Map(log.flat().map((entry) => [entry.position, entry]));
  const begun = streams.findLastIndex(({ snapshot }) => snapshot !== undefined);
  if (begun < 0) report('snapshot', 'never had a snapshot');
  const state = new Map<string, string>(Object.entries(streams[begun]?.snapshot ?? {}));
  const last = new Map<number, Position>();
  for (const one of streams.slice(Math.max(begun, 0)).flatMap((stream) => stream.told)) {
    const entry = known.get(one.position);
    if (entry === undefined || !same(entry, one))
      report('reliable', `was told ${describe(one)}, which the log has not`);
    const before = last.get(one.partition) ?? '';
    if (one.position === before) report('unique', `was told ${describe(one)} twice`);
    else if (one.position < before) report('ordered', `was told ${describe(one)} after ${before}`);
    last.set(one.partition, one.position);
    const was = state.get(one.key) ?? null;
    if (was !== one.previous) report('snapshot', `had ${one.key} at ${was}, and was told ${describe(one)}`);
    if (one.id === null) state.delete(one.key);
    else state.set(one.key, one.id);
  }
  for (const key of new Set([...state.keys(), ...Object.keys(store)])) {
    const [had, stored] = [state.get(key) ?? null, store[key] ?? null];
    if (had !== stored) report('snapshot', `has ${key} at ${had} in the end, and the store at ${stored}`);
  }
}

/** Cursors never go back, stand behind what was told, and in the end behind everything. */
function checkCursors(streams: readonly Stream[], report: Report): void {
  for (const { since, told, cursors } of streams) {
    let before: readonly Position[] = since ?? [];
    for (const { told: count, positions } of cursors) {
      for (const [partition, position] of positions.entries()) {
        const was = before[partition] ?? '';
        if (position < was)
          report('bookmarkable', `partition ${partition}: a cursor went back from ${was} to ${position}`);
      }
      const last = told[count - 1];
      if (last !== undefined && (positions[last.partition] ?? '') < last.position) {
        report('resumable', `a cursor stands before what it came with: ${describe(last)}`);
      }
      before = positions;
    }
  }
}

/** A listener to whom nothing ever happens: its bookmarks must get to the end of the log. */
function checkIdle({ log }: History, streams: readonly Stream[], report: Report): void {
  const told = streams.flatMap((stream) => stream.told).length;
  if (told > 0) report('reliable', `was told ${told} changes, and should have been told none`);
  const positions = streams.flatMap(({ cursors }) => cursors).at(-1)?.positions ?? [];
  for (const [partition, entries] of log.entries()) {
    const [end, last] = [entries.at(-1)?.position ?? '', positions[partition] ?? ''];
    if (last < end) {
      report(
        'bookmarkable',
        `partition ${partition}: the last bookmark is at ${last || 'none'}, the log ends at ${end}`,
      );
    }
  }
}

function same(a: Told, b: Told): boolean {
  return (
    a.partition === b.partition &&
    a.key === b.key &&
    a.op === b.op &&
    a.id === b.id &&
    a.previous === b.previous
  );
}

function describe({ partition, position, op, key, id }: Told): string {
  return `${op} ${key} ${id ?? ''} (${partition}, ${position})`;
}
