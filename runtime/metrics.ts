import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** The process's metrics, in Prometheus' text format at /metrics. Names begin with `conger_`; units are in the name. */
export const metrics = new Registry();
collectDefaultMetrics({ register: metrics });

const seconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export function counter<L extends string>(
  name: string,
  help: string,
  labelNames: readonly L[] = [],
): Counter<L> {
  return new Counter({ name, help, labelNames: [...labelNames], registers: [metrics] });
}

/** @param collect sets the gauge, or several, whenever the metrics are read */
export function gauge<L extends string>(
  name: string,
  help: string,
  labelNames: readonly L[] = [],
  collect?: () => void | Promise<void>,
): Gauge<L> {
  const own = collect === undefined ? {} : { collect };
  return new Gauge({ name, help, labelNames: [...labelNames], registers: [metrics], ...own });
}

/** A histogram of durations, in seconds. */
export function timer<L extends string>(
  name: string,
  help: string,
  labelNames: readonly L[] = [],
): Histogram<L> {
  return new Histogram({ name, help, labelNames: [...labelNames], buckets: seconds, registers: [metrics] });
}
