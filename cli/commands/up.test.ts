import { describe, expect, it } from 'vitest';
import { planPorts } from '../plan.ts';
import { parseUp } from './up.ts';

it('every part has a port of its own', () => {
  const ports = planPorts(2020, 10, 6);
  const all = [
    ports.kvstore,
    ports.kvstoreMetrics,
    ports.captures,
    [ports.postgres, ports.kafka, ports.adminui],
    ...Object.values(ports.services),
  ].flat();
  expect(new Set(all).size).toBe(all.length);
  expect(Math.max(...all)).toBeLessThanOrEqual(2080);
});

describe('the options of up', () => {
  it('have their defaults', () => {
    expect(parseUp([])).toEqual({
      home: '.conger',
      instances: 2,
      captures: 1,
      nodes: 2,
      simulated: false,
      portBase: 2020,
      kafka: false,
      sql: false,
      install: true,
    });
  });

  it('are taken as given', () => {
    const args = [
      '--instances',
      '3',
      '--captures=2',
      '--nodes=simulated:50',
      '--home',
      '/x',
      '--port-base',
      '0',
      '--no-install',
    ];
    const more = [
      '--kafka-brokers',
      'a:9092, b.c:9093,[::1]:9094',
      '--postgres',
      'postgresql://u:p@h:5432/d,postgresql://u:p@i:5432/d',
      '--sql',
    ];
    expect(parseUp([...args, ...more])).toEqual({
      home: '/x',
      instances: 3,
      captures: 2,
      nodes: 50,
      simulated: true,
      portBase: 'free',
      kafka: ['a:9092', 'b.c:9093', '[::1]:9094'],
      postgres: 'postgresql://u:p@h:5432/d,postgresql://u:p@i:5432/d',
      sql: true,
      install: false,
    });
  });

  it.each([
    ['--instances', '0'],
    ['--instances', '1.5'],
    ['--instances', ''],
    ['--captures', '0'],
    ['--captures', '7'],
    ['--nodes', 'two'],
    ['--nodes', 'simulated:'],
    ['--nodes', 'netns:2'],
    ['--port-base', '70000'],
    ['--kafka-brokers', 'localhost'],
    ['--kafka-brokers', 'a:1,,b:2'],
    ['--postgres', 'mysql://h/d'],
    ['--postgres', 'mysql://h/d,postgresql://h/d'],
    ['--home', ''],
  ])('%s %j is refused, with the option’s name', (option, value) => {
    expect(() => parseUp([option, value])).toThrow(option);
  });

  it('that are unknown, or contradict each other, are refused', () => {
    expect(() => parseUp(['--fast'])).toThrow('--fast');
    expect(() => parseUp(['twice'])).toThrow('twice');
    expect(() => parseUp(['--kafka', '--kafka-brokers', 'a:1'])).toThrow('give one of them');
  });
});
