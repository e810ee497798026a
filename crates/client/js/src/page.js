// What a page reports: hidden and visible, back from the cache of the browser, and a network that came back.

/**
 * Outside of pages there is nothing to watch.
 * @param {(isHidden: boolean) => void} onVisibility
 * @param {(isOtherNetwork: boolean) => void} onWake
 * @returns {() => void} stops
 */
export function watchPage(onVisibility, onWake) {
  const { document, window } = globalThis;
  const controller = new AbortController();
  /** @param {EventTarget | undefined} target @param {string} name @param {() => void} listener */
  const listen = (target, name, listener) => target?.addEventListener(name, listener, controller);
  const visibility = () => {
    onVisibility(document.hidden);
    if (!document.hidden) onWake(false);
  };
  listen(document, "visibilitychange", visibility);
  if (document) visibility();
  listen(window, "pageshow", () => onWake(false));
  listen(window, "online", () => onWake(true));
  return () => controller.abort();
}
