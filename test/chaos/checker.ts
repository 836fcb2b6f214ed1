import { checkLog } from './check-log.ts';
import { checkApplied, checkListener } from './check-observers.ts';
import type { History, Stream } from './history.ts';

/** The six promises of the changefeed, and that a snapshot and the changes after it are the store. */
export type Property =
  | 'ordered'
  | 'unique'
  | 'atomic'
  | 'reliable'
  | 'resumable'
  | 'bookmarkable'
  | 'snapshot';

export interface Violation {
  readonly property: Property;
  /** Who saw it: `log`, `consumer`, or a listener's name. */
  readonly observer: string;
  readonly text: string;
}

/**
 * Everything in a history that breaks a promise.
 *
 * The log is judged by the writers and by the store: every acknowledged write is in it, nothing that failed is, the
 * changes of each object make one chain from nothing to what the store holds, and a write that began after another was
 * acknowledged comes after it. Consumers and listeners are then judged by the log.
 */
export function check(history: History): Violation[] {
  const listeners = new Map<string, Stream[]>();
  for (const stream of history.streams) {
    listeners.set(stream.listener, [...(listeners.get(stream.listener) ?? []), stream]);
  }
  return [
    ...checkLog(history),
    ...checkApplied(history),
    ...[...listeners].flatMap(([name, streams]) => checkListener(history, name, streams)),
  ];
}
