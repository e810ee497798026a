// What a client does after a connection was closed with a code. Every other code, and none, means: connect again.

/** A new connection would end in the same way, by the code word of the reason. @type {{ [code: number]: string }} */
export const FINAL = {
  1002: "protocol_error",
  1003: "unsupported",
  1007: "bad_data",
  1009: "too_big",
  4400: "bad_frame",
  4401: "not_authenticated",
  4402: "token_expired",
  4403: "revoked",
};

/** Those of them after which a connection with another token may do. */
export const TOKEN = [4401, 4402];

/** Connect again after a longer pause. */
export const LATER = [1011, 4408, 4429, 4503, 4508];
