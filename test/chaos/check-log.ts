import { epochOf, FIRST_EPOCH } from '../../changefeed/position.ts';
import type { Property, Violation } from './checker.ts';
import { commitOf, type History, type Logged, type Write } from './history.ts';

/** Judges the log by what the writers did and by what the store holds in the end. */
export function checkLog(history: History): Violation[] {
  const violations: Violation[] = [];
  const report = (property: Property, text: string) => violations.push({ property, observer: 'log', text });
  checkPositions(history.log, report);
  checkTransactions(history.log, report);
  checkChains(history, report);
  checkWrites(history, report);
  checkRealTime(history, report);
  return violations;
}

type Report = (property: Property, text: string) => void;

function checkPositions(log: History['log'], report: Report): void {
  const all = new Set<string>();
  for (const [partition, entries] of log.entries()) {
    let last = '';
    for (const { position } of entries) {
      if (all.has(position)) report('unique', `${position} is there twice`);
      else if (position < last) report('ordered', `partition ${partition}: ${position} comes after ${last}`);
      all.add(position);
      if (position > last) last = position;
    }
  }
}

/** A transaction's changes are all there, each at its place. */
function checkTransactions(log: History['log'], report: Report): void {
  const commits = new Map<string, Logged[]>();
  for (const entry of log.flat()) {
    const commit = commitOf(entry);
    commits.set(commit, [...(commits.get(commit) ?? []), entry]);
  }
  for (const [commit, entries] of commits) {
    const indexes = new Set(entries.map(({ index }) => index));
    const count = entries[0]?.count ?? 0;
    if (indexes.size !== count || entries.some((entry) => entry.count !== count)) {
      report('atomic', `of the ${count} changes of ${commit} there are ${indexes.size}`);
    }
  }
}

/** The changes of an object: each says what was there before, and the last one left what the store holds. */
function checkChains({ log, store }: History, report: Report): void {
  const newest = newestEpoch(log);
  const state = new Map<string, { id: string | null; epoch: number }>();
  for (const entries of log) {
    for (const { key, id, previous, position } of entries) {
      const before = state.get(key) ?? { id: null, epoch: FIRST_EPOCH };
      // Between two epochs there is a gap.
      if (before.id !== previous && before.epoch === epochOf(position)) {
        report('reliable', `${key} was ${previous} before ${position}, and the log left it at ${before.id}`);
      }
      state.set(key, { id, epoch: epochOf(position) });
    }
  }
  for (const key of new Set([...state.keys(), ...Object.keys(store)])) {
    const { id: logged, epoch } = state.get(key) ?? { id: null, epoch: FIRST_EPOCH };
    const stored = store[key] ?? null;
    if (logged !== stored && epoch === newest) {
      report('snapshot', `${key} is ${stored} in the store and ${logged} in the log`);
    }
  }
}

/** What was acknowledged is there, whole and in one transaction; what failed is not. */
function checkWrites({ writes, log }: History, report: Report): void {
  const puts = new Map<string, Logged[]>();
  const deletes = new Map<string, Logged[]>();
  for (const entry of log.flat()) {
    const [by, name] = entry.id === null ? [deletes, entry.key] : [puts, entry.id];
    by.set(name, [...(by.get(name) ?? []), entry]);
  }
  const inGap = gapsOf(writes, log);
  const mayDelete = new Set<string>();
  const known = new Set<string>();
  for (const write of writes) {
    const found = write.ops.map(({ op, key, id, wants }) =>
      op === 'put'
        ? (puts.get(id ?? '') ?? []).filter((entry) => entry.key === key)
        : (deletes.get(key) ?? []).filter(({ previous }) => wants === undefined || previous === wants),
    );
    if (write.outcome === 'failed') {
      for (const [i, { op, id }] of write.ops.entries())
        if (op === 'put' && found[i]?.length) report('reliable', `${id} has failed, and is in the log`);
    } else {
      for (const { op, key, id, wants } of write.ops) {
        if (op === 'put' && id !== null) known.add(id);
        else mayDelete.add(`${key} ${wants === undefined ? '*' : wants}`);
      }
    }
    if (write.outcome === 'ok') {
      for (const [i, one] of write.ops.entries()) {
        if (found[i]?.length !== 0 || (one.op === 'delete' && wasGone(write, one, writes, deletes))) continue;
        if (inGap(write)) continue;
        report('reliable', `${one.op} ${one.id ?? one.key} was acknowledged, and is not in the log`);
      }
    }
    if (write.ops.length > 1 && write.outcome !== 'failed') checkBatch(write, found, report);
  }
  for (const [id, entries] of puts) {
    if (!known.has(id))
      report('reliable', `${id} is in the log at ${entries[0]?.position}, and nobody wrote it`);
  }
  for (const { key, previous, position } of [...deletes.values()].flat()) {
    if (!mayDelete.has(`${key} *`) && !mayDelete.has(`${key} ${previous}`)) {
      report('reliable', `${key} was deleted at ${position}, and nobody did it`);
    }
  }
}

/**
 * Where the log has several epochs: whether a write may be missing between two of them. It may not be followed, in time,
 * by one of the earlier epoch, nor follow one of the later.
 */
function gapsOf(writes: readonly Write[], log: History['log']): (write: Write) => boolean {
  const epochs = new Map<string, number>();
  for (const { id, position } of log.flat()) {
    if (id !== null && !epochs.has(id)) epochs.set(id, epochOf(position));
  }
  const present = writes.flatMap((write) => {
    const epoch = write.ops.map(({ id }) => epochs.get(id ?? '')).find((found) => found !== undefined);
    return epoch === undefined || write.outcome !== 'ok' ? [] : [{ write, epoch }];
  });
  const gaps = [...new Set(epochs.values())]
    .sort((a, b) => a - b)
    .slice(1)
    .map((later) => ({
      from: Math.max(...present.filter(({ epoch }) => epoch < later).map(({ write }) => write.invoked)),
      to: Math.min(...present.filter(({ epoch }) => epoch >= later).map(({ write }) => write.ended)),
    }));
  return ({ invoked, ended }) => gaps.some(({ from, to }) => ended >= from && invoked <= to);
}

/**
 * A delete is also acknowledged where its first try may have happened, and its second finds nothing: then the object was
 * deleted by another, or had never been there.
 */
function wasGone(
  write: Write,
  { key }: Write['ops'][number],
  writes: readonly Write[],
  deletes: ReadonlyMap<string, readonly Logged[]>,
): boolean {
  if (deletes.has(key)) return true;
  const before = writes.filter(({ outcome, ended }) => outcome === 'ok' && ended < write.invoked);
  return !before.some(({ ops }) => ops.some((one) => one.op === 'put' && one.key === key));
}

/** Each commit that holds one of a batch's puts holds them all. */
function checkBatch({ ops }: Write, found: readonly (readonly Logged[])[], report: Report): void {
  const puts = found.filter((_, i) => ops[i]?.op === 'put');
  const commits = new Set(puts.flatMap((entries) => entries.map(commitOf)));
  for (const commit of commits) {
    const there = puts.filter((entries) => entries.some((entry) => commitOf(entry) === commit)).length;
    if (there !== puts.length) {
      report('atomic', `of a batch of ${puts.length} puts (${ops[0]?.id}, ...) ${commit} has ${there}`);
    }
  }
}

/** A write that began after another had been acknowledged comes after it. */
function checkRealTime({ writes, log }: History, report: Report): void {
  const first = new Map<string, string>();
  for (const { id, position } of log.flat()) {
    if (id !== null && position < (first.get(id) ?? '~')) first.set(id, position);
  }
  const placed = writes.flatMap(({ invoked, ended, outcome, ops }) => {
    const position = ops.map(({ id }) => first.get(id ?? '')).find((found) => found !== undefined);
    return position === undefined
      ? []
      : [{ invoked, ended: outcome === 'ok' ? ended : Infinity, position, ops }];
  });
  const byEnd = placed.filter(({ ended }) => ended < Infinity).sort((a, b) => a.ended - b.ended);
  let next = 0;
  let latest: (typeof placed)[number] | undefined;
  for (const write of placed.sort((a, b) => a.invoked - b.invoked)) {
    for (; (byEnd[next]?.ended ?? Infinity) < write.invoked; next++) {
      const done = byEnd[next];
      if (done !== undefined && done.position > (latest?.position ?? '')) latest = done;
    }
    if (latest !== undefined && latest.position > write.position) {
      report(
        'ordered',
        `${latest.ops[0]?.id} was acknowledged before ${write.ops[0]?.id} began, and stands behind it (${latest.position}, ${write.position})`,
      );
    }
  }
}

/** The last epoch of a log. */
export function newestEpoch(log: History['log']): number {
  return log.flat().reduce((most, { position }) => Math.max(most, epochOf(position)), FIRST_EPOCH);
}
