import type { Socket } from 'node:net';
import { type FastStatus, type FastVersion, greatestSize, sizeOf, writeMessage } from './codec.ts';

interface Queued {
  readonly version: FastVersion;
  readonly status: FastStatus;
  readonly msgid: number;
  readonly payload: string;
}

/** More than this, counted as `greatestSize`, is not kept for the end of the turn. */
const flushAt = 192 * 1024;

/**
 * Where messages become bytes, in memory that all connections share. What a socket has passed on to the kernel when its
 * write returns (most writes) is written over by the next, so sending makes no garbage; the rest stays untouched.
 */
const slabSize = 512 * 1024;
let slab = Buffer.allocUnsafeSlow(slabSize);
let slabUsed = 0;

/** The messages of one connection, in order. What one turn of the event loop sends goes out in one write. */
export class Outbox {
  readonly #socket: Socket;
  #queue: Queued[] = [];
  /** The most bytes that what is queued takes. */
  #size = 0;
  #scheduled = false;
  readonly #onTick = () => {
    this.#scheduled = false;
    this.flush();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Answers whether the socket can take more. What is sent to a socket that has ended is dropped. */
  add(version: FastVersion, status: FastStatus, msgid: number, payload: string): boolean {
    this.#queue.push({ version, status, msgid, payload });
    this.#size += greatestSize(payload);
    if (this.#size > flushAt) {
      this.flush();
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      process.nextTick(this.#onTick);
    }
    return !this.#socket.writableNeedDrain;
  }

  flush(): void {
    const queue = this.#queue;
    const size = this.#size;
    if (queue.length === 0) return;
    this.#queue = [];
    this.#size = 0;
    if (!this.#socket.writable) return;
    if (size > slabSize) {
      const bytes = Buffer.allocUnsafeSlow(queue.reduce((sum, { payload }) => sum + sizeOf(payload), 0));
      write(queue, bytes, 0);
      this.#socket.write(bytes);
      return;
    }
    if (size > slabSize - slabUsed) {
      slab = Buffer.allocUnsafeSlow(slabSize);
      slabUsed = 0;
    }
    const end = write(queue, slab, slabUsed);
    this.#socket.write(slab.subarray(slabUsed, end));
    if (this.#socket.writableLength > 0) slabUsed = end;
  }
}

/** Answers where the messages end. */
function write(queue: readonly Queued[], target: Buffer, start: number): number {
  let at = start;
  for (const { version, status, msgid, payload } of queue) {
    at = writeMessage(target, at, version, status, msgid, payload);
  }
  return at;
}
