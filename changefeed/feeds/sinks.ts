import type { ServerResponse } from 'node:http';
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

/**
 * JSON lines over HTTP, no faster than the client takes them. The head of the response has been sent. What Node would
 * do for each reader (a chunk of four pieces) takes longer than all the rest: chunks go to the socket as they are.
 */
export function httpSink(response: ServerResponse): Sink {
  const { socket } = response;
  const direct = socket !== null && response.chunkedEncoding;
  const to = direct ? socket : response;
  return lineSink(direct ? chunk : plain, (bytes) => {
    if (to.write(bytes)) return true;
    if (to.destroyed) return false;
    return new Promise((resolve) => {
      const settle = () => {
        to.off('drain', settle);
        to.off('close', settle);
        resolve(!to.destroyed);
      };
      to.once('drain', settle);
      to.once('close', settle);
    });
  });
}

/** What may wait in a websocket before its reader is waited for, in bytes. */
const roomOfSocket = 64 * 1024;

const message: Frame = (line) => Buffer.from(line);

/** The same lines, one a message. */
export function socketSink(socket: WebSocket): Sink {
  return lineSink(message, (bytes) => {
    if (socket.readyState !== socket.OPEN) return false;
    if (socket.bufferedAmount < roomOfSocket) {
      socket.send(bytes, { binary: false });
      return true;
    }
    return new Promise((resolve) => {
      socket.send(bytes, { binary: false }, (error) => resolve(error === undefined || error === null));
    });
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
