/**
 * The page: tables that are read again when the feed tells of a change that concerns them, and a table of the feed
 * itself. Only the instances' health is asked for time and again, as no feed tells it, and only while somebody looks.
 */
import { feedColumns, fill, note, rowOf, tables } from '/tables.js';

const feedLength = 50;
/** Changes that come together cost one reading. */
const gatherMs = 100;
const healthMs = { up: 5_000, down: 1_000 };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One table: at most one reading of it is under way, and one that was asked for meanwhile follows it. */
class View {
  constructor(name) {
    this.name = name;
    this.table = document.getElementById(name);
    this.counter = document.getElementById(`${name}-count`);
    this.shown = '';
    this.rows = [];
    this.busy = undefined;
    this.again = false;
    fill(this.table, tables[name].columns, [note('loading', tables[name].columns, 'quiet')]);
  }

  refresh() {
    this.again = true;
    this.busy ??= this.read().finally(() => {
      this.busy = undefined;
    });
    return this.busy;
  }

  async read() {
    while (this.again) {
      await pause(gatherMs);
      this.again = false;
      try {
        const answer = await fetch(`/api/${this.name}`);
        const text = await answer.text();
        if (!answer.ok) throw new Error(JSON.parse(text).message);
        this.show(text);
      } catch (error) {
        this.fail(error.message);
      }
    }
  }

  show(text) {
    // Rows that stay as they are keep what is selected in them.
    if (text === this.shown) return;
    const { columns, count } = tables[this.name];
    this.shown = text;
    this.rows = JSON.parse(text);
    const rows = this.rows.map((row) => rowOf(row, columns));
    fill(this.table, columns, rows.length > 0 ? rows : [note('none yet', columns, 'quiet')]);
    this.counter.textContent = count(this.rows);
  }

  fail(message) {
    const { columns } = tables[this.name];
    this.shown = '';
    fill(this.table, columns, [note(message, columns, 'error')]);
    this.counter.textContent = '';
  }
}

const views = Object.keys(tables).map((name) => new View(name));
const instances = views.find((view) => view.name === 'instances');

function say(text, className) {
  const live = document.getElementById('live');
  live.textContent = text;
  live.className = `mark ${className}`;
}

function follow() {
  const table = document.getElementById('feed');
  fill(table, feedColumns, [note('none since this page was opened', feedColumns, 'quiet')]);
  let changes = 0;
  const source = new EventSource('/api/feed');
  source.onopen = () => {
    say('live', 'good');
    for (const view of views) view.refresh();
  };
  source.onerror = () => say('connection lost, trying again', 'bad');
  source.addEventListener('instances', () => instances.refresh());
  source.onmessage = (event) => {
    const change = JSON.parse(event.data);
    const [body] = table.tBodies;
    if (changes++ === 0) body.replaceChildren();
    body.prepend(rowOf(change, feedColumns));
    while (body.rows.length > feedLength) body.deleteRow(-1);
    for (const view of views) if (tables[view.name].buckets.includes(change.bucket)) view.refresh();
  };
}

async function watchHealth() {
  for (;;) {
    await pause(instances.rows.every((row) => row.healthy) ? healthMs.up : healthMs.down);
    if (!document.hidden) await instances.refresh();
  }
}

follow();
watchHealth();
