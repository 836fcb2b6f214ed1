/** A PostgreSQL snapshot (`pg_snapshot`): which transactions a read saw. All ids have 64 bits. */
export interface Snapshot {
  /** Every transaction below is visible, or was rolled back. */
  readonly xmin: bigint;
  /** No transaction from here on is visible. */
  readonly xmax: bigint;
  /** Transactions between the two that were still running. */
  readonly running: ReadonlySet<bigint>;
}

const FORM = /^(\d+):(\d+):((?:\d+(?:,\d+)*)?)$/;

/** Reads PostgreSQL's text form `xmin:xmax:xip,xip,...`. @throws RangeError */
export function parseSnapshot(text: string): Snapshot {
  const match = FORM.exec(text);
  if (match === null) throw new RangeError(`not a snapshot: ${JSON.stringify(text)}`);
  const [, xmin, xmax, running] = match as unknown as [string, string, string, string];
  return {
    xmin: BigInt(xmin),
    xmax: BigInt(xmax),
    running: new Set(running === '' ? [] : running.split(',').map(BigInt)),
  };
}

/** Whether a read in `snapshot` saw the committed transaction `xid` (64 bits). */
export function isVisible(xid: bigint | string, snapshot: Snapshot): boolean {
  const id = BigInt(xid);
  return id < snapshot.xmin || (id < snapshot.xmax && !snapshot.running.has(id));
}

/**
 * The 64-bit form of a 32-bit transaction id, as logical decoding gives it. PostgreSQL never lets live ids spread over
 * more than 2^31, so it is the one that is nearest to the snapshot's xmax.
 */
export function extendXid(xid32: number, snapshot: Snapshot): bigint {
  const distance = (xid32 - Number(snapshot.xmax & 0xffff_ffffn)) | 0;
  return snapshot.xmax + BigInt(distance);
}
