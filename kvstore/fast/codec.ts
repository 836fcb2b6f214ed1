import { isUtf8 } from 'node:buffer';
import { z } from 'zod';
import { crcArc, crcLegacy } from './crc.ts';

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

/** @throws TypeError where the payload cannot be written as JSON. */
export function encodeMessage(
  version: FastVersion,
  messageStatus: FastStatus,
  msgid: number,
  name: string | undefined,
  d: readonly unknown[] | WireError,
): Buffer {
  return encodeJson(version, messageStatus, msgid, name, JSON.stringify(d));
}

/** @param d the JSON of the message's values, or of its error */
export function encodeJson(
  version: FastVersion,
  messageStatus: FastStatus,
  msgid: number,
  name: string | undefined,
  d: string,
): Buffer {
  const text = `{"m":${JSON.stringify({ uts: Date.now() * 1000, name })},"d":${d}}`;
  const length = Buffer.byteLength(text);
  const message = Buffer.allocUnsafe(headerSize + length);
  message.write(text, headerSize, 'utf8');
  message[0] = version;
  message[1] = typeJson;
  message[2] = messageStatus;
  message.writeUInt32BE(msgid, 3);
  message.writeUInt32BE(
    version === 1 ? crcLegacy(text) : crcArc(message, headerSize, headerSize + length),
    7,
  );
  message.writeUInt32BE(length, 11);
  return message;
}

interface Header {
  readonly version: FastVersion;
  readonly status: FastStatus;
  readonly msgid: number;
  readonly crc: number;
  readonly length: number;
}

/**
 * Turns bytes, however they are cut, into messages. Holds no more than one message and the chunk that completes it:
 * the length is checked before the payload is waited for. After an error the decoder stays in error.
 */
export class FastDecoder {
  readonly #limit: number;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #header: Header | undefined;
  #failed: FastProtocolError | undefined;

  /** @param limit greatest payload that is accepted, in bytes */
  constructor(limit: number) {
    this.#limit = limit;
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  /**
   * The next whole message, or undefined until there is one.
   * @throws FastProtocolError
   */
  next(): FastMessage | undefined {
    if (this.#failed !== undefined) throw this.#failed;
    try {
      if (this.#header === undefined) {
        if (this.#bytes < headerSize) return undefined;
        this.#header = parseHeader(this.#take(headerSize), this.#limit);
      }
      const header = this.#header;
      if (this.#bytes < header.length) return undefined;
      this.#header = undefined;
      return parseMessage(header, this.#take(header.length));
    } catch (error) {
      if (error instanceof FastProtocolError) {
        this.#failed = error;
        this.#chunks = [];
        this.#bytes = 0;
      }
      throw error;
    }
  }

  /** @throws FastProtocolError where the bytes end inside a message */
  end(): void {
    if (this.#failed !== undefined) throw this.#failed;
    if (this.#bytes > 0 || this.#header !== undefined) {
      throw new FastProtocolError('incomplete_message', 'incomplete message at end-of-stream');
    }
  }

  #take(size: number): Buffer {
    this.#bytes -= size;
    const first = this.#chunks[0];
    if (first !== undefined && first.length > size) {
      this.#chunks[0] = first.subarray(size);
      return first.subarray(0, size);
    }
    const parts: Buffer[] = [];
    let missing = size;
    let used = 0;
    for (const chunk of this.#chunks) {
      if (missing === 0) break;
      if (chunk.length > missing) {
        parts.push(chunk.subarray(0, missing));
        this.#chunks[used] = chunk.subarray(missing);
        missing = 0;
      } else {
        parts.push(chunk);
        missing -= chunk.length;
        used++;
      }
    }
    this.#chunks.splice(0, used);
    return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts, size);
  }
}

function parseHeader(bytes: Buffer, limit: number): Header {
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
  const length = bytes.readUInt32BE(11);
  if (length > limit) {
    throw new FastProtocolError('too_long', `message of ${length} bytes (at most ${limit})`);
  }
  return { version, status: messageStatus, msgid, crc: bytes.readUInt32BE(7), length };
}

const payloadSchema = z.looseObject({ m: z.unknown().optional(), d: z.unknown().optional() });
const nameSchema = z.looseObject({ name: z.string().min(1) });
const errorSchema = z.looseObject({ name: z.string(), message: z.string() });

function parseMessage(header: Header, bytes: Buffer): FastMessage {
  if (!isUtf8(bytes)) throw new FastProtocolError('invalid_json', 'payload is not valid UTF-8');
  const text = bytes.toString('utf8');
  const crc = header.version === 1 ? crcLegacy(text) : crcArc(bytes, 0, bytes.length);
  if (crc !== header.crc) {
    throw new FastProtocolError('bad_crc', `expected CRC ${header.crc}, found ${crc}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new FastProtocolError('invalid_json', 'invalid JSON in "data"', error);
  }
  const payload = payloadSchema.safeParse(json);
  if (!payload.success) {
    throw new FastProtocolError('bad_data', 'message data must be a non-null object');
  }
  const { m, d } = payload.data;
  const meta = nameSchema.safeParse(m);
  const frame: Frame = {
    version: header.version,
    msgid: header.msgid,
    name: meta.success ? meta.data.name : undefined,
  };
  if (header.status === status.error) {
    const error = errorSchema.safeParse(d);
    if (!error.success) {
      throw new FastProtocolError('bad_error', 'data.d for ERROR messages must have name and message');
    }
    return { ...frame, status: header.status, error: error.data };
  }
  if (!Array.isArray(d)) {
    throw new FastProtocolError('bad_data_d', 'data.d for DATA and END messages must be an array');
  }
  return { ...frame, status: header.status, values: d };
}
