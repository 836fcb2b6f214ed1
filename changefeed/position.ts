import type { Position } from './types.ts';

/** The parts of a position: capture epoch, LSN of the transaction's commit, index in the transaction. */
export interface PositionParts {
  readonly epoch: number;
  readonly lsn: bigint;
  readonly index: number;
}

/** Before every position; where a reader of an empty partition stands. */
export const START: Position = '';

const MAX_U32 = 0xffff_ffff;
const MAX_U64 = 0xffff_ffff_ffff_ffffn;
const FORM = /^([0-9a-f]{8})-([0-9a-f]{16})-([0-9a-f]{8})$/;
const LSN = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** @throws RangeError where a part is negative or does not fit its width. */
export function formatPosition({ epoch, lsn, index }: PositionParts): Position {
  if (!fitsU32(epoch) || !fitsU32(index) || lsn < 0n || lsn > MAX_U64) {
    throw new RangeError(`no such position: epoch ${epoch}, lsn ${lsn}, index ${index}`);
  }
  return `${hex(epoch, 8)}-${hex(lsn, 16)}-${hex(index, 8)}`;
}

/** Makes the positions of one transaction's changes out of their indexes. @throws RangeError as `formatPosition` */
export function positionsOf(epoch: number, lsn: bigint): (index: number) => Position {
  const first = formatPosition({ epoch, lsn, index: 0 });
  const transaction = first.slice(0, -8);
  return (index) => {
    if (!fitsU32(index)) throw new RangeError(`no such index: ${index}`);
    return transaction + hex(index, 8);
  };
}

/** @throws RangeError where `position` is not of the form that formatPosition makes ('' included). */
export function parsePosition(position: Position): PositionParts {
  const match = FORM.exec(position);
  if (match === null) throw new RangeError(`not a position: ${JSON.stringify(position)}`);
  const [, epoch, lsn, index] = match as unknown as [string, string, string, string];
  return { epoch: Number.parseInt(epoch, 16), lsn: BigInt(`0x${lsn}`), index: Number.parseInt(index, 16) };
}

/** The epoch of a slot that was never lost; what stands before every position belongs to it. */
export const FIRST_EPOCH = 1;

/** The epoch of a position, or of START. */
export function epochOf(position: Position): number {
  return position === START ? FIRST_EPOCH : Number.parseInt(position.slice(0, 8), 16);
}

/** What the positions of one transaction have in common: its epoch and commit LSN. */
export function transactionOf(position: Position): string {
  return position.slice(0, 25);
}

/** The highest epoch among positions. */
export function epochOfAll(positions: readonly Position[]): number {
  return positions.reduce((most, position) => Math.max(most, epochOf(position)), FIRST_EPOCH);
}

/** Whether `text` is a position ('' is not). */
export function isPosition(text: string): boolean {
  return FORM.test(text);
}

/** PostgreSQL's `X/Y` notation of an LSN as a number. @throws RangeError */
export function lsnToBigint(text: string): bigint {
  const match = LSN.exec(text);
  if (match === null) throw new RangeError(`not an LSN: ${JSON.stringify(text)}`);
  const [, high, low] = match as unknown as [string, string, string];
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}

/** The inverse of lsnToBigint. */
export function bigintToLsn(lsn: bigint): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;
}

function fitsU32(n: number): boolean {
  return Number.isInteger(n) && n >= 0 && n <= MAX_U32;
}

function hex(n: number | bigint, width: number): string {
  return n.toString(16).padStart(width, '0');
}
