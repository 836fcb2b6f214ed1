/**
 * Loaded into each process of a run before all else: lets the harness set its wall clock. `Date` is shifted; what is
 * monotonic (timers, `performance.now`) is not, as on a machine whose clock is set.
 */

let offset = 0;
const now = Date.now.bind(Date);

Date.now = () => now() + offset;
globalThis.Date = new Proxy(Date, {
  construct: (target, args, newTarget) =>
    Reflect.construct(target, args.length === 0 ? [Date.now()] : args, newTarget) as Date,
  apply: (target) => new target(Date.now()).toString(),
});
Date.prototype.constructor = Date;

process.on('message', (message) => {
  if (typeof message === 'object' && message !== null && 'clock' in message) offset = Number(message.clock);
});
