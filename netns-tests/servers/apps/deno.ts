// A server for `deno serve`: / answers at once, /slow after 2 s.
export default {
    async fetch(request: Request): Promise<Response> {
        if (new URL(request.url).pathname === "/slow") await new Promise((done) => setTimeout(done, 2000));
        return new Response("hello\n");
    },
};
