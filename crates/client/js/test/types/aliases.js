// Types of the package under names of an application.

/** @typedef {import("pushonce").Message} Message */
/** @typedef {import("pushonce").Message["position"]} Position */

export {};
