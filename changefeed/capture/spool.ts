import { closeSync, openSync, read, unlinkSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { messageOf } from '../../runtime/errors.ts';
import { spoolBytes } from './metrics.ts';

const readAt = promisify(read);

/** What is gathered before it is written, and what is read at a time. */
const CHUNK_BYTES = 256 * 1024;
/** Of a change: the lengths of its key and of its body. */
const HEAD_BYTES = 8;

/** A change whose transaction is not known to be committed. */
export interface Part {
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

  /** @throws Error where no file can be made */
  spool(): Spool {
    const path = join(this.#directory, `conger-capture-${process.pid}-${this.#made++}`);
    const fd = openSync(path, 'wx+', 0o600);
    unlinkSync(path);
    const spool = new Spool(fd, {
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

  #take(bytes: number): void {
    if (this.#bytes + bytes > this.#limit) {
      throw new Error(
        `transactions in progress are larger than the spool, of ${this.#limit} bytes (CONGER_CAPTURE_SPOOL_MB)`,
      );
    }
    this.#bytes += bytes;
    spoolBytes.set(this.#bytes);
  }
}

/**
 * The changes of one transaction, on disk, in order. Written synchronously: while the disk is slow nothing more is taken
 * from PostgreSQL.
 */
export class Spool {
  readonly #fd: number;
  readonly #room: { take(bytes: number): void; closed(bytes: number): void };
  #gathered: Buffer[] = [];
  #gatheredBytes = 0;
  #written = 0;
  #count = 0;
  #closed = false;

  /** Made by a SpoolRoom. */
  constructor(fd: number, room: { take(bytes: number): void; closed(bytes: number): void }) {
    this.#fd = fd;
    this.#room = room;
  }

  get count(): number {
    return this.#count;
  }

  /** Copies the change. @throws Error where there is no more room on the disk or in the limit */
  add({ partitionKey, body }: Part): void {
    const keyBytes = Buffer.byteLength(partitionKey);
    const entry = Buffer.allocUnsafe(HEAD_BYTES + keyBytes + body.length);
    entry.writeUInt32BE(keyBytes, 0);
    entry.writeUInt32BE(body.length, 4);
    entry.write(partitionKey, HEAD_BYTES);
    body.copy(entry, HEAD_BYTES + keyBytes);
    this.#gathered.push(entry);
    this.#gatheredBytes += entry.length;
    this.#count++;
    if (this.#gatheredBytes >= CHUNK_BYTES) this.#flush();
  }

  /** All changes in order, in lists of at most so many changes and bytes (one change may be larger). */
  async *slices(most: { readonly records: number; readonly bytes: number }): AsyncGenerator<Part[]> {
    this.#flush();
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
    closeSync(this.#fd);
    this.#room.closed(this.#written);
  }

  #flush(): void {
    const chunk = Buffer.concat(this.#gathered);
    this.#gathered = [];
    this.#gatheredBytes = 0;
    this.#room.take(chunk.length);
    this.#written += chunk.length;
    try {
      for (let done = 0; done < chunk.length; ) done += writeSync(this.#fd, chunk, done);
    } catch (error) {
      throw new Error(`the spool cannot be written (CONGER_CAPTURE_SPOOL): ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** The changes of each piece that is read. Bodies are views into it. */
  async *#chunks(): AsyncGenerator<Part[]> {
    let rest: Buffer = Buffer.alloc(0);
    for (let at = 0; at < this.#written; ) {
      const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, this.#written - at));
      const { bytesRead } = await readAt(this.#fd, chunk, 0, chunk.length, at);
      if (bytesRead === 0) throw new Error('the spool is shorter than what was written to it');
      at += bytesRead;
      rest = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
      const parts: Part[] = [];
      let start = 0;
      while (rest.length - start >= HEAD_BYTES) {
        const bodyStart = start + HEAD_BYTES + rest.readUInt32BE(start);
        const end = bodyStart + rest.readUInt32BE(start + 4);
        if (end > rest.length) break;
        const partitionKey = rest.toString('utf8', start + HEAD_BYTES, bodyStart);
        parts.push({ partitionKey, body: rest.subarray(bodyStart, end) });
        start = end;
      }
      rest = rest.subarray(start);
      yield parts;
    }
  }
}
