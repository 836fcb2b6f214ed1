import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import { replaceProduceEncoder } from './produce-encoder.ts';

/**
 * kafkajs 2.2.4 looks every millisecond, on every connection, whether requests wait to be sent, even where none do
 * (tulios/kafkajs#1704): several percent of a core for a process at rest, and a warning of Node's from 24 on. Here it
 * looks while some wait; `push` calls this for each that does.
 */
RequestQueue.prototype.scheduleCheckPendingRequests = function (this: RequestQueue) {
  if (this.throttleCheckTimeoutId !== null || this.pending.length === 0) return;
  this.throttleCheckTimeoutId = setTimeout(
    () => {
      this.throttleCheckTimeoutId = null;
      this.checkPendingRequests();
    },
    Math.max(this.throttledUntil - Date.now(), 10),
  );
};

// kafkajs' own takes most of the CPU time of an append.
replaceProduceEncoder();
