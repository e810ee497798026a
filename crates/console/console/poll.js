// Repeats a task, never faster than once a second, and not while the page is hidden.

/** The shortest pause after a task. */
const PAUSE_MIN = 1_000;

/** The longest pause after tasks that failed. */
const PAUSE_MAX = 10_000;

/**
 * Runs `task` now and then after each pause. A task that throws is tried again, later each time.
 * @param {(signal: AbortSignal) => Promise<unknown>} task
 * @param {number} pause in milliseconds
 * @param {(error: unknown) => void} [onError] called with each error of the task, and with `undefined` after it succeeds
 * @returns {() => void} ends it
 */
export function poll(task, pause, onError = () => {}) {
  const abort = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let isRunning = false;
  let failures = 0;
  const run = async () => {
    clearTimeout(timer);
    if (isRunning || document.hidden || abort.signal.aborted) return;
    isRunning = true;
    try {
      await task(abort.signal);
      failures = 0;
      if (!abort.signal.aborted) onError(undefined);
    } catch (error) {
      failures += 1;
      if (!abort.signal.aborted) onError(error);
    }
    isRunning = false;
    if (abort.signal.aborted) return;
    timer = setTimeout(
      run,
      Math.min(Math.max(pause, PAUSE_MIN) * 2 ** Math.min(failures, 4), Math.max(PAUSE_MAX, pause)),
    );
  };
  document.addEventListener("visibilitychange", run, { signal: abort.signal });
  void run();
  return () => {
    clearTimeout(timer);
    abort.abort();
  };
}
