import { closeSync, openSync, read, unlinkSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { messageOf } from '../../runtime/errors.ts';
import { spoolBytes } from './metrics.ts';

const readAt = promisify(read);

/** What is gathered before it is written, and what is read at a time. */
const CHUNK_BYTES = 256 * 1024;
/** What a spool keeps in memory where the disk takes nothing more, so that each has something. */
const TAIL_BYTES = 2 * 1024 * 1024;
/** Of a change: its index, and the lengths of its key and of its body. */
const HEAD_BYTES = 12;

/** A change, and its place among those of its transaction. */
export interface Part {
  readonly index: number;
  readonly partitionKey: string;
  readonly body: Buffer;
}

export interface SpoolOptions {
  /** Default: the system's temporary directory. */
  readonly directory?: string;
  /** Bytes of all spools together. */
  readonly limit?: number;
}

/**
 * The disk space that large transactions may wait in. Files have no name from the moment that they are made, so that
 * they end with their process, however that ends.
 */
export class SpoolRoom {
  readonly #directory: string;
  readonly #limit: number;
  readonly #open = new Set<Spool>();
  #bytes = 0;
  #made = 0;

  constructor(options: SpoolOptions = {}) {
    this.#directory = options.directory || tmpdir();
    this.#limit = options.limit ?? Number.POSITIVE_INFINITY;
  }

  /** How many spools there are. */
  get size(): number {
    return this.#open.size;
  }

  spool(): Spool {
    const spool = new Spool({
      file: () => this.#file(),
      take: (bytes) => this.#take(bytes),
      closed: (bytes) => {
        this.#bytes -= bytes;
        spoolBytes.set(this.#bytes);
        this.#open.delete(spool);
      },
    });
    this.#open.add(spool);
    return spool;
  }

  /** Ends all spools. */
  close(): void {
    for (const spool of this.#open) spool.close();
  }

  #file(): number {
    const path = join(this.#directory, `conger-capture-${process.pid}-${this.#made++}`);
    const fd = openSync(path, 'wx+', 0o600);
    unlinkSync(path);
    return fd;
  }

  #take(bytes: number): boolean {
    if (this.#bytes + bytes > this.#limit) return false;
    this.#bytes += bytes;
    spoolBytes.set(this.#bytes);
    return true;
  }
}

interface Room {
  file(): number;
  take(bytes: number): boolean;
  closed(bytes: number): void;
}

/**
 * Changes of one transaction, on disk, in order. Written synchronously: while the disk is slow nothing more is taken from
 * PostgreSQL. Where the disk or the limit has no more room it holds what came until then, which is 2 MB at least, and
 * says why: there is no error.
 */
export class Spool {
  readonly #room: Room;
  #fd: number | undefined;
  #gathered: Buffer[] = [];
  #gatheredBytes = 0;
  /** Bytes that were taken of the room, and those that are in the file for certain. */
  #taken = 0;
  #inFile = 0;
  #count = 0;
  #full: string | undefined;
  #closed = false;

  /** Made by a SpoolRoom. */
  constructor(room: Room) {
    this.#room = room;
  }

  /** How many changes it holds. */
  get count(): number {
    return this.#count;
  }

  /** Why there is no more room; undefined while there is. */
  get full(): string | undefined {
    return this.#full;
  }

  /** Copies the change. Answers false where there is no room for it, nor for any that comes after it. */
  add({ index, partitionKey, body }: Part): boolean {
    if (this.#full !== undefined && this.#gatheredBytes >= TAIL_BYTES) return false;
    const keyBytes = Buffer.byteLength(partitionKey);
    const entry = Buffer.allocUnsafe(HEAD_BYTES + keyBytes + body.length);
    entry.writeUInt32BE(index, 0);
    entry.writeUInt32BE(keyBytes, 4);
    entry.writeUInt32BE(body.length, 8);
    entry.write(partitionKey, HEAD_BYTES);
    body.copy(entry, HEAD_BYTES + keyBytes);
    this.#gathered.push(entry);
    this.#gatheredBytes += entry.length;
    this.#count++;
    if (this.#gatheredBytes >= CHUNK_BYTES && this.#full === undefined) this.#write();
    return true;
  }

  /** All changes in order, in lists of at most so many changes and bytes (one change may be larger). */
  async *slices(most: { readonly records: number; readonly bytes: number }): AsyncGenerator<Part[]> {
    let slice: Part[] = [];
    let bytes = 0;
    for await (const chunk of this.#chunks()) {
      for (const part of chunk) {
        if (slice.length >= most.records || (slice.length > 0 && bytes + part.body.length > most.bytes)) {
          yield slice;
          slice = [];
          bytes = 0;
        }
        slice.push(part);
        bytes += part.body.length;
      }
    }
    if (slice.length > 0) yield slice;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#room.closed(this.#taken);
  }

  /** Writes what was gathered, or keeps it. */
  #write(): void {
    const chunk = Buffer.concat(this.#gathered);
    if (!this.#room.take(chunk.length)) {
      this.#full = 'the spool is full (CONGER_CAPTURE_SPOOL_MB)';
      return;
    }
    this.#taken += chunk.length;
    try {
      this.#fd ??= this.#room.file();
      for (let done = 0; done < chunk.length; ) done += writeSync(this.#fd, chunk, done);
      this.#inFile += chunk.length;
      this.#gathered = [];
      this.#gatheredBytes = 0;
    } catch (error) {
      this.#full = `the spool cannot be written (CONGER_CAPTURE_SPOOL): ${messageOf(error)}`;
    }
  }

  /** The changes of each piece that is read. Bodies are views into it. */
  async *#chunks(): AsyncGenerator<Part[]> {
    let rest: Buffer = Buffer.alloc(0);
    for (let at = 0; this.#fd !== undefined && at < this.#inFile; ) {
      const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, this.#inFile - at));
      const { bytesRead } = await readAt(this.#fd, chunk, 0, chunk.length, at);
      if (bytesRead === 0) throw new Error('the spool is shorter than what was written to it');
      at += bytesRead;
      rest = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
      const { parts, end } = partsIn(rest);
      rest = rest.subarray(end);
      yield parts;
    }
    for (const entry of this.#gathered) yield partsIn(entry).parts;
  }
}

/** The changes that are whole in `bytes`, and where they end. */
function partsIn(bytes: Buffer): { readonly parts: Part[]; readonly end: number } {
  const parts: Part[] = [];
  let start = 0;
  while (bytes.length - start >= HEAD_BYTES) {
    const keyStart = start + HEAD_BYTES;
    const bodyStart = keyStart + bytes.readUInt32BE(start + 4);
    const end = bodyStart + bytes.readUInt32BE(start + 8);
    if (end > bytes.length) break;
    parts.push({
      index: bytes.readUInt32BE(start),
      partitionKey: bytes.toString('utf8', keyStart, bodyStart),
      body: bytes.subarray(bodyStart, end),
    });
    start = end;
  }
  return { parts, end: start };
}
