// Listeners of named events.

/**
 * @template {object} Events the values by event name
 */
export class Listeners {
  /** @type {{ [N in keyof Events]?: Set<(value: Events[N]) => unknown> }} */
  #sets = {};

  /**
   * Adds a listener. Returns a function that removes it.
   * @template {keyof Events} N
   * @param {N} name
   * @param {(value: Events[N]) => unknown} listener
   * @returns {() => void}
   */
  add(name, listener) {
    const set = (this.#sets[name] ??= new Set());
    set.add(listener);
    return () => void set.delete(listener);
  }

  /** @param {keyof Events} name */
  has(name) {
    return !!this.#sets[name]?.size;
  }

  /**
   * Calls the listeners. An error of one is reported like any uncaught error, and does not reach the others.
   * @template {keyof Events} N
   * @param {N} name
   * @param {Events[N]} value
   */
  call(name, value) {
    for (const listener of this.#sets[name] ?? []) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
