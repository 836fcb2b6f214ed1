import type { ServerResponse } from 'node:http';
import type { Writable } from 'node:stream';
import type { WebSocket } from 'ws';
import type { FeedMessage } from './feed.ts';
import type { Frame, Line } from './feed-class.ts';
import type { FeedLine } from './lines.ts';

export type LineMessage = FeedMessage<string, Line>;

/** Passes a message on; a promise says when the reader has room again, false that it is gone. */
export type Sink = (message: LineMessage) => boolean | Promise<boolean>;

type Write = (bytes: Buffer) => boolean | Promise<boolean>;

const plain: Frame = (line) => Buffer.from(`${line}\n`);

/** A line as a chunk of HTTP's own, so that what goes to many readers is made once. */
const chunk: Frame = (line) => {
  const length = Buffer.byteLength(line) + 1;
  return Buffer.from(`${length.toString(16)}\r\n${line}\n\r\n`);
};

/** A line as a text message of RFC 6455, not masked, as a server sends it. */
const message: Frame = (line) => {
  const length = Buffer.byteLength(line);
  const head = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const bytes = Buffer.allocUnsafe(head + length);
  bytes[0] = 0x81;
  bytes[1] = head === 2 ? length : head === 4 ? 126 : 127;
  if (head === 4) bytes.writeUInt16BE(length, 2);
  else if (head === 10) bytes.writeBigUInt64BE(BigInt(length), 2);
  bytes.write(line, head);
  return bytes;
};

/**
 * JSON lines over HTTP, no faster than the client takes them. The head of the response has been sent. What Node would
 * do for each reader (a chunk of four pieces) takes longer than all the rest: chunks go to the socket as they are.
 */
export function httpSink(response: ServerResponse): Sink {
  const { socket } = response;
  if (socket === null || !response.chunkedEncoding)
    return lineSink(plain, (bytes) => writeTo(response, bytes));
  return lineSink(chunk, (bytes) => writeTo(socket, bytes));
}

/**
 * The same lines, one a message, as whole frames on the connection that the websocket was made of: nothing that `ws`
 * sends comes in pieces, as it does not compress here.
 */
export function socketSink(websocket: WebSocket, connection: Writable): Sink {
  return lineSink(message, (bytes) => websocket.readyState === websocket.OPEN && writeTo(connection, bytes));
}

/** Whether the bytes were taken; a promise where there is no room for more just now. */
function writeTo(stream: Writable, bytes: Buffer): boolean | Promise<boolean> {
  if (stream.write(bytes)) return true;
  if (stream.destroyed) return false;
  return new Promise((resolve) => {
    const settle = () => {
      stream.off('drain', settle);
      stream.off('close', settle);
      resolve(!stream.destroyed);
    };
    stream.once('drain', settle);
    stream.once('close', settle);
  });
}

/** Writes messages as lines; the last line ends whatever was being written. */
function lineSink(frame: Frame, write: Write): Sink {
  let ended = false;
  const text = (one: string) => !ended && write(frame(one));
  const line = (one: FeedLine) => text(JSON.stringify(one));
  const snapshot = async ({ items, count, last, cursor }: Extract<LineMessage, { type: 'snapshot' }>) => {
    for (const item of items) if (!(await text(item))) return false;
    return last ? line({ type: 'snapshot-end', count, cursor }) : true;
  };
  return (message) => {
    switch (message.type) {
      case 'event':
        return !ended && write(message.event.with(message.cursor, frame));
      case 'bookmark':
        return line({ type: 'bookmark', cursor: message.cursor });
      case 'snapshot':
        return snapshot(message);
      case 'end': {
        const { error, cursor } = message;
        const last = { type: 'error', code: error.code, message: error.message } as const;
        const answer = line(cursor === undefined ? last : { ...last, cursor });
        ended = true;
        return answer;
      }
    }
  };
}
