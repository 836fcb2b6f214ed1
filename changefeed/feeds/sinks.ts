import type { ServerResponse } from 'node:http';
import type { WebSocket } from 'ws';
import type { FeedMessage } from './feed.ts';
import type { Line } from './feed-class.ts';
import type { FeedLine, SnapshotLine } from './lines.ts';

export type LineMessage = FeedMessage<SnapshotLine, Line>;

/** Passes a message on; a promise says when the reader has room again, false that it is gone. */
export type Sink = (message: LineMessage) => boolean | Promise<boolean>;

type Write = (bytes: Buffer) => boolean | Promise<boolean>;

/** JSON lines over HTTP, no faster than the client takes them. */
export function httpSink(response: ServerResponse): Sink {
  return lineSink((bytes) => {
    if (response.destroyed) return false;
    if (response.write(bytes)) return true;
    return new Promise((resolve) => {
      const settle = () => {
        response.off('drain', settle);
        response.off('close', settle);
        resolve(!response.destroyed);
      };
      response.once('drain', settle);
      response.once('close', settle);
    });
  });
}

/** What may wait in a websocket before its reader is waited for, in bytes. */
const roomOfSocket = 64 * 1024;

/** The same lines, one a message. */
export function socketSink(socket: WebSocket): Sink {
  return lineSink((bytes) => {
    if (socket.readyState !== socket.OPEN) return false;
    const message = bytes.subarray(0, -1);
    if (socket.bufferedAmount < roomOfSocket) {
      socket.send(message, { binary: false });
      return true;
    }
    return new Promise((resolve) => {
      socket.send(message, { binary: false }, (error) => resolve(error === undefined || error === null));
    });
  });
}

/** Writes messages as lines; the last line ends whatever was being written. */
function lineSink(write: Write): Sink {
  let ended = false;
  const line = (one: FeedLine) => !ended && write(Buffer.from(`${JSON.stringify(one)}\n`));
  const snapshot = async ({ items, cursor }: Extract<LineMessage, { type: 'snapshot' }>) => {
    for (const item of items) if (!(await line(item))) return false;
    return line({ type: 'snapshot-end', count: items.length, cursor });
  };
  return (message) => {
    switch (message.type) {
      case 'event':
        return !ended && write(message.event.with(message.cursor));
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
