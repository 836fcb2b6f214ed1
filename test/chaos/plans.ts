import { type Failpoint, failpoints } from '../../runtime/failpoint-names.ts';
import type { Random } from '../random.ts';
import type { Kind } from './managed.ts';

export type Log = 'embedded' | 'kafka';

const of: Readonly<Record<Kind, RegExp>> = {
  kvstore: /^kvstore\./,
  capture: /^(capture|log\.embedded\.(takeover|append|trim)|log\.kafka\.(open|send))\./,
  service: /^(group|consumer|checkpoint|broadcast|feed|log\.embedded\.(fetch|enter)|log\.kafka\.fetch)\./,
};

/** The failpoints that runs on this log pass. */
export function failpointsOf(log: Log, kind?: Kind): readonly Failpoint[] {
  const other = log === 'embedded' ? 'log.kafka.' : 'log.embedded.';
  return (Object.keys(failpoints) as Failpoint[]).filter(
    (name) => !name.startsWith(other) && (kind === undefined || of[kind].test(name)),
  );
}

/**
 * The plans of a process' lives: its first two may have one or two faults each. Each seed has one failpoint whose turn
 * it is, so that as many seeds as there are failpoints arm every one of them.
 */
export function plansOf(log: Log, kind: Kind, name: string, random: Random): readonly string[] {
  const names = failpointsOf(log, kind);
  const every = failpointsOf(log);
  const turn = every[random.seed % every.length]!;
  const choices = random.fork(500 + Object.keys(of).indexOf(kind) * 10 + Number(name.at(-1)));
  const plan = (count: number) =>
    Array.from({ length: count }, () => fault(choices.pick(names), choices)).join(',');
  const first = plan(choices.below(3));
  const second = plan(choices.below(2));
  const featured = names.includes(turn) && name.endsWith('0') ? fault(turn, choices) : '';
  return [[featured, first].filter(Boolean).join(','), second];
}

function fault(name: Failpoint, random: Random): string {
  // What a feed reads from cannot break without its process.
  const actions = name.startsWith('feed.')
    ? ['kill', 'stop', 'delay']
    : ['kill', 'kill', 'stop', 'error', 'delay'];
  const action = random.pick(actions);
  const at = 1 + random.below(random.pick([1, 5, 40]));
  return `${name}=${action === 'delay' ? `delay:${50 + random.below(800)}` : action}@${at}`;
}
