module darklaunch

go 1.26.0
