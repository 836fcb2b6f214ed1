import { CongerError } from '../../runtime/errors.ts';
import { isPosition, START } from '../position.ts';
import { parseSnapshot } from '../snapshot.ts';
import type { Position } from '../types.ts';

/**
 * Where a reader of all partitions stands. A partition advances on its own, so one position cannot say it: a place
 * is a position for each. It goes to clients as a `FeedCursor`, which any instance can resume from.
 */
export interface FeedPlace {
  /** When the newest change before this place was committed, or else when reading began; milliseconds since 1970. */
  readonly time: number;
  /** The last position that was passed in each partition; '' where there was none. */
  readonly positions: readonly Position[];
  /** The PostgreSQL snapshot that the reader began with ('' without one): a change that it sees is not told again. */
  readonly snapshot: string;
}

/**
 * A place as text, opaque to clients: base64url of a version (1 byte), the time (6), the number of partitions (2), for
 * each its position (16: epoch 4, LSN 8, index 4; zeros for none), and the snapshot's text. About 190 characters for 8
 * partitions.
 */
export type FeedCursor = string;

const VERSION = 1;
const HEAD = 9;
const WIDTH = 16;
const NONE = '00000000000000000000000000000000';
const MAX_LENGTH = 64 * 1024;

export function encodeCursor({ time, positions, snapshot }: FeedPlace): FeedCursor {
  return new CursorBase(time, positions).with(snapshot);
}

/** The cursors of readers that stand at one place and began with different snapshots: what they share is encoded once. */
export class CursorBase {
  readonly #plain: FeedCursor;
  /** What ends on a character of base64, and the bytes after it. */
  readonly #prefix: string;
  readonly #rest: Buffer;

  constructor(time: number, positions: readonly Position[]) {
    const head = Buffer.alloc(HEAD);
    head.writeUInt8(VERSION, 0);
    head.writeUIntBE(Math.max(0, Math.trunc(time)), 1, 6);
    head.writeUInt16BE(positions.length, 7);
    const vector = positions.map((p) => (p === START ? NONE : p.replaceAll('-', ''))).join('');
    const bytes = Buffer.concat([head, Buffer.from(vector, 'hex')]);
    const whole = bytes.length - (bytes.length % 3);
    this.#plain = bytes.toString('base64url');
    this.#prefix = this.#plain.slice(0, (whole / 3) * 4);
    this.#rest = bytes.subarray(whole);
  }

  with(snapshot: string): FeedCursor {
    if (snapshot === '') return this.#plain;
    return this.#prefix + Buffer.concat([this.#rest, Buffer.from(snapshot, 'latin1')]).toString('base64url');
  }
}

/**
 * The place that a client names: a cursor, or a position, which stands for that place in the shard's commit order in
 * every partition. To resume takes a cursor: what a reader of several partitions was told when it was told of a
 * position need not be all that comes before it.
 * @throws CongerError BadRequest where `text` is neither
 */
export function parseSince(text: string, partitions: number): FeedPlace {
  if (!isPosition(text)) return decodeCursor(text);
  return { time: 0, positions: new Array<Position>(partitions).fill(text), snapshot: '' };
}

/** @throws CongerError BadRequest where `text` is not a cursor. */
export function decodeCursor(text: FeedCursor): FeedPlace {
  const malformed = () => new CongerError('BadRequest', 'the cursor is malformed');
  if (text.length > MAX_LENGTH || !/^[\w-]+$/.test(text)) throw malformed();
  const bytes = Buffer.from(text, 'base64url');
  if (bytes.length < HEAD || bytes.readUInt8(0) !== VERSION) throw malformed();
  const end = HEAD + bytes.readUInt16BE(7) * WIDTH;
  if (bytes.length < end) throw malformed();
  const positions: Position[] = [];
  for (let at = HEAD; at < end; at += WIDTH) {
    const hex = bytes.toString('hex', at, at + WIDTH);
    positions.push(hex === NONE ? START : `${hex.slice(0, 8)}-${hex.slice(8, 24)}-${hex.slice(24)}`);
  }
  const snapshot = bytes.toString('latin1', end);
  try {
    if (snapshot !== '') parseSnapshot(snapshot);
  } catch {
    throw malformed();
  }
  if (!positions.every((p) => p === START || isPosition(p))) throw malformed();
  return { time: bytes.readUIntBE(1, 6), positions, snapshot };
}
