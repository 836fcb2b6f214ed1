import { isUtf8 } from 'node:buffer';
import { crcArc, crcLegacy, crcLegacyAscii } from './crc.ts';

/**
 * The framing of the fast protocol (node-fast 3), versions 1 and 2. A message is a header of 15 bytes (version, type,
 * status, message id, checksum, length; big-endian) and a JSON payload `{m: {uts, name}, d}`.
 */
export type FastVersion = 1 | 2;

export const status = { data: 1, end: 2, error: 3 } as const;
export type FastStatus = (typeof status)[keyof typeof status];

const typeJson = 1;
const headerSize = 15;
export const maxMessageId = 2 ** 31 - 1;

/** An error as it travels. `context` and `info` are what a program needs to react. */
export interface WireError {
  readonly name: string;
  readonly message: string;
  readonly context?: unknown;
  readonly info?: unknown;
  readonly ase_errors?: unknown;
}

interface Frame {
  readonly version: FastVersion;
  readonly msgid: number;
  /** The remote procedure's name; undefined where the payload has none. */
  readonly name: string | undefined;
}

export type FastMessage = Frame &
  (
    | {
        readonly status: typeof status.data | typeof status.end;
        readonly values: readonly unknown[];
      }
    | { readonly status: typeof status.error; readonly error: WireError }
  );

export type ProtocolFault =
  | 'unsupported_version'
  | 'unsupported_type'
  | 'unsupported_status'
  | 'invalid_msgid'
  | 'too_long'
  | 'bad_crc'
  | 'invalid_json'
  | 'bad_data'
  | 'bad_data_d'
  | 'bad_error'
  | 'incomplete_message'
  | 'unexpected_status'
  | 'duplicate_msgid'
  | 'unknown_msgid';

/** The peer broke the protocol: the bytes that follow mean nothing, so the connection has to end. */
export class FastProtocolError extends Error {
  readonly reason: ProtocolFault;

  constructor(reason: ProtocolFault, message: string, cause?: unknown) {
    super(`fast protocol: ${message}`, cause === undefined ? undefined : { cause });
    this.name = 'FastProtocolError';
    this.reason = reason;
  }
}

/**
 * The payload of a message.
 * @param name the procedure's name as JSON; undefined: none
 * @param d the JSON of the message's values, or of its error
 */
export function payloadOf(name: string | undefined, d: string): string {
  const uts = Date.now() * 1000;
  return name === undefined
    ? `{"m":{"uts":${uts}},"d":${d}}`
    : `{"m":{"uts":${uts},"name":${name}},"d":${d}}`;
}

/** The most bytes that the message of this payload takes; counting them costs as much as writing them. */
export function greatestSize(payload: string): number {
  return headerSize + payload.length * 3;
}

/** The bytes that the message of this payload takes. */
export function sizeOf(payload: string): number {
  return headerSize + Buffer.byteLength(payload);
}

/** Writes a message at `at`, where `sizeOf(payload)` bytes are free. Answers where it ends. */
export function writeMessage(
  target: Buffer,
  at: number,
  version: FastVersion,
  messageStatus: FastStatus,
  msgid: number,
  payload: string,
): number {
  const start = at + headerSize;
  const length = target.write(payload, start, 'utf8');
  const end = start + length;
  target[at] = version;
  target[at + 1] = typeJson;
  target[at + 2] = messageStatus;
  target.writeUInt32BE(msgid, at + 3);
  target.writeUInt32BE(checksum(version, payload, target, start, end), at + 7);
  target.writeUInt32BE(length, at + 11);
  return end;
}

/**
 * One message by itself.
 * @throws TypeError where the payload cannot be written as JSON
 */
export function encodeMessage(
  version: FastVersion,
  messageStatus: FastStatus,
  msgid: number,
  name: string | undefined,
  d: readonly unknown[] | WireError,
): Buffer {
  const payload = payloadOf(name === undefined ? undefined : JSON.stringify(name), JSON.stringify(d));
  const message = Buffer.allocUnsafe(sizeOf(payload));
  writeMessage(message, 0, version, messageStatus, msgid, payload);
  return message;
}

/** @param bytes hold the text as UTF-8 between `from` and `to` */
function checksum(version: FastVersion, text: string, bytes: Buffer, from: number, to: number): number {
  if (version === 2) return crcArc(bytes, from, to);
  return text.length === to - from ? crcLegacyAscii(bytes, from, to) : crcLegacy(text);
}

interface Header {
  readonly version: FastVersion;
  readonly status: FastStatus;
  readonly msgid: number;
  readonly crc: number;
  readonly length: number;
}

/** A message whose payload is longer than the limit: it is skipped, as if it had not come. */
export type Oversized = Pick<Header, 'version' | 'status' | 'msgid' | 'length'>;

export interface SkipOptions {
  /** Greatest payload that is skipped, in bytes; what is longer yet is a fault. */
  readonly upTo: number;
  /** Told of each such message when its header has come. May throw a FastProtocolError. */
  report(message: Oversized): void;
}

const nothing = Buffer.alloc(0);

/**
 * Turns bytes, however they are cut, into messages. Once it has said that there is no whole message, it holds no more
 * than the part of one that has come: a length is checked before its payload is waited for. After an error the decoder
 * stays in error.
 */
export class FastDecoder {
  readonly #limit: number;
  readonly #skip: SkipOptions | undefined;
  /** Chunks that were not looked at yet; `#at` is the place in the first. */
  readonly #chunks: Buffer[] = [];
  #at = 0;
  /** The header or payload of which a part has come, and how long that part is. */
  #part: Buffer = nothing;
  #filled = 0;
  #header: Header | undefined;
  /** Bytes of a payload that is too long, still to come. */
  #skipping = 0;
  #size = 0;
  #failed: FastProtocolError | undefined;

  /**
   * @param limit greatest payload that is accepted, in bytes
   * @param skip what becomes of longer ones; without it they are faults
   */
  constructor(limit: number, skip?: SkipOptions) {
    this.#limit = limit;
    this.#skip = skip;
  }

  /** How long the payload of the message is that `next` answered last, in bytes. */
  get size(): number {
    return this.#size;
  }

  push(chunk: Buffer): void {
    if (chunk.length > 0) this.#chunks.push(chunk);
  }

  /**
   * The next whole message, or undefined until there is one.
   * @throws FastProtocolError
   */
  next(): FastMessage | undefined {
    if (this.#failed !== undefined) throw this.#failed;
    try {
      let header = this.#header;
      while (header === undefined) {
        this.#pass();
        const bytes = this.#take(headerSize);
        if (bytes === undefined) return undefined;
        header = this.#admit(parseHeader(bytes));
      }
      this.#header = header;
      const payload = this.#take(header.length);
      if (payload === undefined) return undefined;
      this.#header = undefined;
      this.#size = header.length;
      return parseMessage(header, payload);
    } catch (error) {
      if (error instanceof FastProtocolError) {
        this.#failed = error;
        this.#chunks.length = 0;
        this.#part = nothing;
      }
      throw error;
    }
  }

  /** @throws FastProtocolError where the bytes end inside a message */
  end(): void {
    if (this.#failed !== undefined) throw this.#failed;
    const inside = this.#header !== undefined || this.#filled > 0 || this.#skipping > 0;
    if (inside || this.#chunks.length > 0) {
      throw new FastProtocolError('incomplete_message', 'incomplete message at end-of-stream');
    }
  }

  /** Undefined where the payload is too long, and is to be skipped. */
  #admit(header: Header): Header | undefined {
    const { length } = header;
    if (length <= this.#limit) return header;
    if (this.#skip === undefined || length > this.#skip.upTo) {
      const most = this.#skip?.upTo ?? this.#limit;
      throw new FastProtocolError('too_long', `message of ${length} bytes (at most ${most})`);
    }
    this.#skipping = length;
    this.#skip.report(header);
    return undefined;
  }

  /** Forgets what has come of a payload that is skipped. */
  #pass(): void {
    while (this.#skipping > 0) {
      const chunk = this.#chunks[0];
      if (chunk === undefined) return;
      const passed = Math.min(this.#skipping, chunk.length - this.#at);
      this.#skipping -= passed;
      this.#advance(chunk, passed);
    }
  }

  /** The next `size` bytes in one piece, or undefined until all have come. */
  #take(size: number): Buffer | undefined {
    if (size === 0) return nothing;
    for (let chunk = this.#chunks[0]; chunk !== undefined; chunk = this.#chunks[0]) {
      const at = this.#at;
      const used = Math.min(size - this.#filled, chunk.length - at);
      this.#advance(chunk, used);
      if (used === size) return chunk.subarray(at, at + size);
      this.#grow(size, used);
      chunk.copy(this.#part, this.#filled, at, at + used);
      this.#filled += used;
      if (this.#filled === size) {
        const taken = this.#part.subarray(0, size);
        this.#part = nothing;
        this.#filled = 0;
        return taken;
      }
    }
    return undefined;
  }

  /** Makes room for `more` bytes of a piece of `size`: twice as much each time, and never what did not come. */
  #grow(size: number, more: number): void {
    const needed = this.#filled + more;
    if (needed <= this.#part.length) return;
    const grown = Buffer.allocUnsafe(Math.min(size, Math.max(needed, 2 * this.#part.length)));
    this.#part.copy(grown, 0, 0, this.#filled);
    this.#part = grown;
  }

  #advance(chunk: Buffer, used: number): void {
    this.#at += used;
    if (this.#at < chunk.length) return;
    this.#chunks.shift();
    this.#at = 0;
  }
}

function parseHeader(bytes: Buffer): Header {
  const version = bytes.readUInt8(0);
  if (version !== 1 && version !== 2) {
    throw new FastProtocolError('unsupported_version', `unsupported version ${version}`);
  }
  const type = bytes.readUInt8(1);
  if (type !== typeJson) throw new FastProtocolError('unsupported_type', `unsupported type ${type}`);
  const messageStatus = bytes.readUInt8(2);
  if (messageStatus !== status.data && messageStatus !== status.end && messageStatus !== status.error) {
    throw new FastProtocolError('unsupported_status', `unsupported status ${messageStatus}`);
  }
  const msgid = bytes.readUInt32BE(3);
  if (msgid > maxMessageId) throw new FastProtocolError('invalid_msgid', `invalid msgid ${msgid}`);
  return {
    version,
    status: messageStatus,
    msgid,
    crc: bytes.readUInt32BE(7),
    length: bytes.readUInt32BE(11),
  };
}

function parseMessage(header: Header, bytes: Buffer): FastMessage {
  if (!isUtf8(bytes)) throw new FastProtocolError('invalid_json', 'payload is not valid UTF-8');
  const text = bytes.toString('utf8');
  const { version, msgid } = header;
  const crc = checksum(version, text, bytes, 0, bytes.length);
  if (crc !== header.crc) {
    throw new FastProtocolError('bad_crc', `expected CRC ${header.crc}, found ${crc}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new FastProtocolError('invalid_json', 'invalid JSON in "data"', error);
  }
  if (!isRecord(json)) {
    throw new FastProtocolError('bad_data', 'message data must be a non-null object');
  }
  const { m, d } = json;
  const name = isRecord(m) && typeof m.name === 'string' && m.name !== '' ? m.name : undefined;
  if (header.status === status.error) {
    if (!isWireError(d)) {
      throw new FastProtocolError('bad_error', 'data.d for ERROR messages must have name and message');
    }
    return { version, msgid, name, status: header.status, error: d };
  }
  if (!Array.isArray(d)) {
    throw new FastProtocolError('bad_data_d', 'data.d for DATA and END messages must be an array');
  }
  return { version, msgid, name, status: header.status, values: d };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isWireError(value: unknown): value is WireError & Record<string, unknown> {
  return isRecord(value) && typeof value.name === 'string' && typeof value.message === 'string';
}
