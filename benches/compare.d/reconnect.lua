-- Each event is a connection: log in, one statement so that both ends have seen it work, leave.

function thread_init()
   drv = sysbench.sql.driver()
end

function event()
   local con = drv:connect()
   con:query("DO 1")
   con:disconnect()
end
