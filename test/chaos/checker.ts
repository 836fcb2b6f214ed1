import { FIRST_EPOCH } from '../../changefeed/position.ts';
import { checkLog, newestEpoch } from './check-log.ts';
import { checkApplied, checkListener } from './check-observers.ts';
import type { History, Stream } from './history.ts';

/**
 * The six promises of the changefeed, that a snapshot and the changes after it are the store, and that who was told of a
 * change and reads the object sees it, or a newer one.
 */
export type Property =
  | 'ordered'
  | 'unique'
  | 'atomic'
  | 'reliable'
  | 'resumable'
  | 'bookmarkable'
  | 'snapshot'
  | 'visible';

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
 * @param gaps whether changes may be missing, where a new epoch says so
 */
export function check(history: History, { gaps = false }: { readonly gaps?: boolean } = {}): Violation[] {
  const listeners = new Map<string, Stream[]>();
  for (const stream of history.streams) {
    listeners.set(stream.listener, [...(listeners.get(stream.listener) ?? []), stream]);
  }
  const epoch = newestEpoch(history.log);
  const gap: Violation[] =
    gaps || epoch === FIRST_EPOCH
      ? []
      : [{ property: 'resumable', observer: 'log', text: `epoch ${epoch} has begun, and no slot was lost` }];
  return [
    ...gap,
    ...checkLog(history),
    ...checkApplied(history),
    ...[...listeners].flatMap(([name, streams]) => checkListener(history, name, streams)),
  ];
}
