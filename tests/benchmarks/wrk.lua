-- PUT many objects in turn: wrk ... -s wrk.lua URL -- LIST
-- A line of LIST is a request target, a tab, and the name of a file with the body, or nothing.

local requests, at = {}, 0

function init(args)
   for line in io.lines(args[1]) do
      local target, name = line:match("^([^\t]*)\t(.*)$")
      local body = nil
      if name ~= "" then
         local file = assert(io.open(name, "rb"))
         body = file:read("*a")
         file:close()
      end
      -- As AIStore's targets have it where the object is named and not sent.
      local headers = { ["Content-Length"] = tostring(body and #body or 0) }
      requests[#requests + 1] = wrk.format("PUT", target, headers, body)
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '\n{"images": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "failed": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      e.connect + e.read + e.write + e.status + e.timeout))
end
