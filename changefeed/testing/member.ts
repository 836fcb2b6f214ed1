import type { Cursor, GroupHandler, LogBatch } from '../types.ts';
import { Seen } from './records.ts';

/** What a group has done, by partition: its checkpoints and its effects, in one place, as a store would hold them. */
export interface GroupState {
  readonly cursors: Map<number, Cursor>;
  readonly history: { readonly partition: number; readonly position: string; readonly member: string }[];
}

/**
 * A member of a group that records all it is told, and checks that calls for one partition never overlap. Effects are
 * fenced as a consumer's are: a batch that does not follow the checkpoint has none.
 */
export class Member extends Seen implements GroupHandler {
  readonly name: string;
  readonly partitions: number;
  readonly state: GroupState;
  readonly owned = new Set<number>();
  /** The gaps it was told of, each with how many records of the partition it had been given by then. */
  readonly gaps: { readonly partition: number; readonly after: number }[] = [];
  regroupings = 0;
  /** A partition whose batches are refused. */
  refuse: number | undefined;
  refused = 0;
  /** What a dead process does has no effect. */
  dead = false;
  readonly #inCall = new Set<number>();

  /** Without `state`, the member begins a group of its own. */
  constructor(name: string, partitions: number, state?: GroupState) {
    super();
    this.name = name;
    this.partitions = partitions;
    this.state = state ?? { cursors: new Map(), history: [] };
  }

  async assigned(partition: number): Promise<Cursor | 'start'> {
    return this.#alone(partition, () => {
      if (this.owned.has(partition)) throw new Error(`partition ${partition} was assigned twice`);
      this.owned.add(partition);
      return this.state.cursors.get(partition) ?? 'start';
    });
  }

  async batch(batch: LogBatch): Promise<void> {
    const { partition } = batch;
    await this.#alone(partition, () => {
      if (!this.owned.has(partition)) throw new Error(`a batch of partition ${partition}, which is not ours`);
      if (this.refuse === partition) {
        this.refused++;
        throw new Error('refused, as the test wants it');
      }
      if (this.dead) return;
      const done = this.state.cursors.get(partition)?.position ?? '';
      for (const { position } of batch.records) {
        if (position > done) this.state.history.push({ partition, position, member: this.name });
      }
      if (batch.cursor.position > done) this.state.cursors.set(partition, batch.cursor);
      this.take(batch);
    });
  }

  async gap(partition: number): Promise<void> {
    await this.#alone(partition, () => {
      if (!this.owned.has(partition)) throw new Error(`a gap in partition ${partition}, which is not ours`);
      this.gaps.push({ partition, after: this.positions(partition).length });
    });
  }

  async revoked(partition: number): Promise<void> {
    await this.#alone(partition, () => {
      if (!this.owned.delete(partition))
        throw new Error(`partition ${partition} was revoked, and is not ours`);
    });
  }

  regrouped(): void {
    this.regroupings++;
    this.changed();
  }

  async #alone<T>(partition: number, work: () => T): Promise<T> {
    if (this.#inCall.has(partition)) throw new Error(`calls for partition ${partition} overlap`);
    this.#inCall.add(partition);
    try {
      // Long enough for a second call to come, if one ever does.
      await new Promise((resolve) => setImmediate(resolve));
      return work();
    } finally {
      this.#inCall.delete(partition);
      this.changed();
    }
  }
}
