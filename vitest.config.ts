import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{agents,changefeed,cli,kvstore,runtime,services,test}/**/*.test.ts'],
    // Real PostgreSQL, Kafka and kernels: a slow machine is not a failure.
    testTimeout: 120_000,
    hookTimeout: 240_000,
    maxWorkers: 2,
  },
});
