// The three outcomes of a publish, and how to read them from the error of a failed call.

import { loadSync } from "@grpc/proto-loader";

/**
 * @typedef {{ kind: "acknowledged", position: string, timeMs: string, durability: string }} Acknowledged
 *   The message is stored. In a `replicated` namespace, the loss of a minority of its replicas does not lose it.
 * @typedef {{ kind: "rejected", reason: string, message: string, retry: boolean, delayMs: number }} Rejected
 *   The message is not stored. `reason` is a code word of proto/README.md, or empty if a proxy dropped it; `retry` says
 *   whether the same message may succeed later, and `delayMs` how long the node asks to wait.
 * @typedef {{ kind: "unknown", message: string }} Unknown
 *   The message may be stored: the connection broke, or no reply arrived in time.
 * @typedef {Acknowledged | Rejected | Unknown} Outcome
 */

const google = loadSync(`${import.meta.dirname}/google-rpc.proto`, { keepCase: true, longs: Number });
const read = (type, bytes) => google[`google.rpc.${type}`].deserialize(bytes);

/** The outcome that a response states. @returns {Outcome} */
export function acknowledged({ position, time_ms: timeMs, durability }) {
  if (durability === "DURABILITY_UNSPECIFIED") {
    return { kind: "unknown", message: "the response does not say what was promised" };
  }
  return { kind: "acknowledged", position, timeMs, durability };
}

/** The outcome of a failed call. @param {import("@grpc/grpc-js").ServiceError} error @returns {Rejected | Unknown} */
export function failed(error) {
  // Only a node knows that nothing happened. A status without the trailer comes from a proxy or the transport.
  if (error.metadata?.get("pushonce-outcome")[0] !== "refused") return { kind: "unknown", message: error.message };
  const { info, delayMs } = errorDetails(error);
  return {
    kind: "rejected",
    reason: info?.reason ?? "",
    message: error.details,
    retry: info?.metadata.retry === "true",
    delayMs,
  };
}

/** What the node that made the status adds to it, nothing for a status of a proxy or the transport. */
export function errorDetails(error) {
  const found = { info: undefined, delayMs: 0 };
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  for (const { type_url: type, value } of bytes ? read("Status", bytes).details : []) {
    if (type.endsWith("/google.rpc.ErrorInfo")) {
      const info = read("ErrorInfo", value);
      if (info.domain === "pushonce") found.info = info;
    } else if (type.endsWith("/google.rpc.RetryInfo")) {
      const { seconds = 0, nanos = 0 } = read("RetryInfo", value).retry_delay ?? {};
      found.delayMs = seconds * 1000 + nanos / 1e6;
    }
  }
  return found;
}
