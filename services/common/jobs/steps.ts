import type { BatchOp } from '../../../kvstore/types.ts';
import type { Logger } from '../../../runtime/log.ts';
import type { JobRecord } from './record.ts';

/** What a step brought about. */
export interface StepOutcome {
  /** A word for the job's chain_results ('OK'). */
  readonly result?: string;
  /** Goes into the job's `data`, for the steps that follow and for undoing. */
  readonly data?: Readonly<Record<string, unknown>>;
  /**
   * Writes that are committed together with the step's end: they happen once, and never on behalf of an instance that
   * lost the job. With the etags of what was read; on a conflict the step is done again.
   */
  readonly ops?: readonly BatchOp[];
}

export interface StepContext {
  readonly job: JobRecord;
  readonly log: Logger;
  /** Aborted when the job is no longer this instance's. */
  readonly signal: AbortSignal;
  /**
   * Waits until `check` answers: it is called at once, and after each change of the object.
   * @throws StepTimeoutError at the step's deadline
   */
  waitFor<T>(bucket: string, key: string, check: () => Promise<T | undefined>): Promise<T>;
  /**
   * A key that only this purpose of this step of this job has, for another service's `idempotency-key`: whoever takes
   * the job over repeats the call under the same.
   */
  key(purpose: string): string;
}

/**
 * One step of a job. It may be done again at any time, from anywhere in its middle: it looks first whether its effect
 * is there. What it throws fails the job, but for errors that pass by themselves (503): those it is tried again for.
 */
export interface Step {
  readonly name: string;
  /** Milliseconds after which the step has failed; absent: it is tried until it succeeds or fails. */
  readonly timeoutMs?: number;
  do(context: StepContext): Promise<StepOutcome | undefined>;
  /** Takes back what `do` did, in whole or in part, or not at all. */
  undo?(context: StepContext): Promise<StepOutcome | undefined>;
}

/** A table of steps. A changed table has another version, so that jobs of the old one still find theirs. */
export interface JobDefinition {
  /** Name and version: `start-1.0.0`. */
  readonly name: string;
  readonly steps: readonly Step[];
}

/** What a step waited for did not come about before its deadline. */
export class StepTimeoutError extends Error {
  readonly code = 'StepTimeout';

  constructor(step: string, what: string) {
    super(`${step}: timed out waiting for ${what}`);
    this.name = 'StepTimeoutError';
  }
}
