// Prints the ID token of somebody who has just signed in: what an API of this client takes as its bearer token.
import { signIn } from "./sign_in.mjs";

const { tokens } = await signIn();
process.stdout.write(tokens.id_token);
process.exit(0);
