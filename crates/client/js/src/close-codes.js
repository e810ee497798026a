// What a client does after a connection was closed with a code. Every other code, and none, means: connect again.

/** A new connection would end in the same way, by its code word. @type {{ [code: number]: string }} */
export const FINAL = {
  1002: "protocol_error",
  1003: "unsupported",
  1007: "bad_data",
  1009: "too_big",
  4400: "bad_frame",
  4403: "revoked",
};

/** The token is not valid, or has expired: connect again only with another one. @type {{ [code: number]: string }} */
export const TOKEN = { 4401: "not_authenticated", 4402: "token_expired" };

/** Connect again after a longer pause. */
export const LATER = [1011, 4408, 4429, 4503, 4508];
