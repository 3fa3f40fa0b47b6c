-- Each event is a transaction that changes one row by its key. One that takes long is told with its begin and end, in seconds
-- of the system's monotonic clock.

local ffi = require("ffi")
ffi.cdef[[
typedef struct { long s; long ns; } changeover_moment;
int clock_gettime(int clock, changeover_moment *moment);
]]
local MONOTONIC, LONG_S = 1, 0.02
local moment = ffi.new("changeover_moment")

local function now()
   ffi.C.clock_gettime(MONOTONIC, moment)
   return tonumber(moment.s) + tonumber(moment.ns) / 1e9
end

sysbench.cmdline.options = {
   tables = {"Number of tables", 4},
   table_size = {"Number of rows per table", 50000},
}

function thread_init()
   drv = sysbench.sql.driver()
   con = drv:connect()
end

function thread_done()
   con:disconnect()
end

function event()
   local opt = sysbench.opt
   local began = now()
   con:query("BEGIN")
   con:query(string.format("UPDATE sbtest%d SET k = k + 1 WHERE id = %d",
      sysbench.rand.uniform(1, opt.tables), sysbench.rand.uniform(1, opt.table_size)))
   con:query("COMMIT")
   local ended = now()
   if ended - began > LONG_S then
      print(string.format("long: %.6f %.6f", began, ended))
   end
end
