import type { Random } from '../random.ts';
import type { Notation } from './corpus.ts';

/** Something that takes any input, with what must hold whatever the input is. */
export interface Target {
  readonly name: string;
  /** How its inputs are kept in files. */
  readonly notation: Notation;
  /** URLs of the modules whose code inputs are to reach. */
  readonly modules: RegExp;
  /** Pieces that mean something to it. */
  readonly words: readonly string[];
  /** An input of its own language, mostly well-formed. */
  generate(random: Random): Buffer;
  /** Makes what was mutated well-formed again where it would never get past the first check. */
  mend?(random: Random, input: Buffer): Buffer;
  /** Throws where something does not hold that must. */
  run(input: Buffer): void | Promise<void>;
  /** @throws where the whole run left something behind */
  close(): Promise<void>;
}
