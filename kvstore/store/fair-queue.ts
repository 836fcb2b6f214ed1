/**
 * Items of several sources. Sources take turns, one item each; the items of one source leave in their order of arrival.
 * So whoever has one item waits for one of each other source, however many these have.
 */
export class FairQueue<T> {
  /** Sources that have items, in the order of their turns. */
  readonly #sources = new Map<object, T[]>();
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(source: object, item: T): void {
    const items = this.#sources.get(source);
    if (items === undefined) this.#sources.set(source, [item]);
    else items.push(item);
    this.#length++;
  }

  /** Takes items, in turns, until `fits` answers that the next may not come along. */
  take(fits: (item: T) => boolean): T[] {
    const taken: T[] = [];
    for (const [source, items] of this.#sources) {
      const item = items[0];
      if (item === undefined || !fits(item)) break;
      taken.push(item);
      items.shift();
      // To the back of the line, where this loop comes to it again.
      this.#sources.delete(source);
      if (items.length > 0) this.#sources.set(source, items);
    }
    this.#length -= taken.length;
    return taken;
  }
}
